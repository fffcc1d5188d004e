"""Find the place that a name leads to: a path, or `hf://owner/name` on the Hub.

No other module decides whether files are on this disk or on the Hub.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from loratools.adapter import Adapter
from loratools.hub.names import HubName, is_hub_name
from loratools.io.folder import Place, place_here
from loratools.io.index import is_index


def place_of(name: str | Path) -> Place:
    """The place that a name leads to; for one on the Hub, only its listing is fetched.

    Raises:
        HubError, NetworkError: the name cannot be found on the Hub.
    """
    if not is_hub_name(name):
        return place_here(name)
    found = HubName.parse(name)  # first: importing the client is slow, and may fail
    from loratools.hub.folder import hub_place

    folder, file = hub_place(found)
    return Place(folder, file, folder.where if file is None else f"{folder.where}/{file}")


def layers_of(name: str | Path) -> tuple[str | Path, ...]:
    """The names in `BASE+OVERLAY+...`: of a base, and of the overlays to lay over it, in order.

    A path that exists is one name, whatever it contains. In a name on the Hub `+` always separates;
    in a revision it is written as `%2B`.
    """
    text = str(name)
    parts = text.split("+")
    if len(parts) == 1 or not all(parts) or os.path.lexists(text):
        return (name,)
    names: list[str | Path] = []
    while parts:
        count = _longest(parts)
        names.append("+".join(parts[:count]))
        parts = parts[count:]
    return tuple(names)


def _longest(parts: Sequence[str]) -> int:
    """How many of the parts make up the first name: the longest path that exists."""
    if is_hub_name(parts[0]):
        return 1
    counts = range(len(parts), 0, -1)
    return next((n for n in counts if os.path.lexists("+".join(parts[:n]))), 1)


def name_of(name: str | Path) -> str:
    """A base's name for people elsewhere: that on the Hub, or the last part of a path."""
    return str(name) if is_hub_name(name) else Path(name).absolute().name


def origins(*names: str | Path | Adapter | None) -> tuple[str, ...]:
    """The names, in place of an open adapter those of what it was read from or made of."""
    found: dict[str, None] = {}
    for name in names:
        if isinstance(name, Adapter):
            found |= dict.fromkeys(name.made_of or (name.where,))
        elif name is not None:
            found[str(name)] = None
    return tuple(found)


def local_paths(*names: str | Path | Adapter | None) -> list[Path]:
    """The names that are paths on this disk, which an output must not overwrite.

    In place of an index its folder is returned, since the files that it names are there; in place
    of a base with overlays, each of them; and in place of an open adapter, where it was read.
    """
    layers = [layer for name in origins(*names) for layer in layers_of(name)]
    paths = [Path(name) for name in layers if not is_hub_name(name)]
    return [path.parent if is_index(path.name) else path for path in paths]
