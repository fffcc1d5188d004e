"""Find the place that a name leads to: a path, or `hf://owner/name` on the Hub.

No other module decides whether files are on this disk or on the Hub.
"""

from pathlib import Path

from loratools.hub.names import HubName, is_hub_name
from loratools.io.folder import Place, place_here
from loratools.io.index import is_index


def place_of(name: str | Path) -> Place:
    """The place that a name leads to; for one on the Hub, only its listing is fetched.

    Raises:
        HubError, NetworkError: the name cannot be found on the Hub.
    """
    if not is_hub_name(name):
        return place_here(Path(name))
    found = HubName.parse(name)  # first: importing the client is slow, and may fail
    from loratools.hub.folder import hub_place

    folder, file = hub_place(found)
    return Place(folder, file, folder.where if file is None else f"{folder.where}/{file}")


def local_paths(*names: str | Path | None) -> list[Path]:
    """The names that are paths on this disk, which an output must not overwrite.

    In place of an index its folder is returned, since the files that it names are there.
    """
    paths = [Path(name) for name in names if name is not None and not is_hub_name(name)]
    return [path.parent if is_index(path.name) else path for path in paths]
