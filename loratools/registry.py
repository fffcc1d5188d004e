"""A folder is a registry: `formats/peft/` *is* the format `peft`, `deltas/dora.py` the kind `dora`.

Names are listed without importing anything; a plug-in is imported when it is asked for.
"""

import importlib
import os
from collections.abc import Iterator
from importlib.machinery import PathFinder
from types import ModuleType

from loratools.errors import UnsupportedError


def names(package: ModuleType) -> tuple[str, ...]:
    """The plug-ins of `package`, sorted: its modules and packages without a leading underscore."""
    # Not with pkgutil, which takes a folder that cannot be read just now for an empty one.
    found = [name for folder in package.__path__ for name in _modules(folder)]
    return tuple(sorted(name for name in found if not name.startswith("_")))


def load(package: ModuleType, name: str) -> ModuleType:
    """Import the plug-in `name` of `package`.

    Raises:
        UnsupportedError: no plug-in of that name is in the folder.
    """
    known = names(package)
    if name not in known:
        raise UnsupportedError(
            f"{name!r} is not one of {package.__name__}: it has {', '.join(known)}"
        )
    return importlib.import_module(f"{package.__name__}.{name}")


def first_line(package: ModuleType, name: str) -> str:
    """The docstring of the plug-in `name`, which is on its first line; nothing is imported."""
    spec = PathFinder.find_spec(f"{package.__name__}.{name}", package.__path__)
    assert spec is not None, name
    assert spec.origin is not None, name
    with open(spec.origin, encoding="utf-8") as file:
        return file.readline().strip().strip('"')


def _modules(folder: str) -> Iterator[str]:
    for entry in os.listdir(folder):
        name, suffix = os.path.splitext(entry)
        if suffix == ".py" or os.path.isfile(os.path.join(folder, entry, "__init__.py")):
            yield name
