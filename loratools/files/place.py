"""From a name to the place that it leads to: a path, or `hf://owner/name` on the Hub.

Only here is it decided whether files are on this disk or on the Hub.
"""

from pathlib import Path

from loratools.hub.names import HubName, is_hub_name
from loratools.io.folder import Place, place_here
from loratools.io.index import is_index


def place_of(name: str | Path) -> Place:
    """The place that a name leads to; of one on the Hub nothing but its listing is fetched.

    Raises:
        HubError, NetworkError: it cannot be found on the Hub.
    """
    if not is_hub_name(name):
        return place_here(Path(name))
    found = HubName.parse(name)  # before the client is imported, which may fail
    from loratools.hub.folder import hub_place

    folder, file = hub_place(found)
    return Place(folder, file, folder.where if file is None else f"{folder.where}/{file}")


def local_paths(*names: str | Path | None) -> list[Path]:
    """Those of the names that are paths: what an output must not overwrite.

    An index stands for its folder, where the files are that it names.
    """
    paths = [Path(name) for name in names if name is not None and not is_hub_name(name)]
    return [path.parent if is_index(path.name) else path for path in paths]
