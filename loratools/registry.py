"""A folder is a registry: `formats/peft/` *is* the format `peft`, `deltas/dora.py` the kind `dora`.

Names are listed without importing anything; a plug-in is imported when it is asked for.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from loratools.errors import UnsupportedError


def names(package: ModuleType) -> tuple[str, ...]:
    """The plug-ins of `package`, sorted: its modules and packages without a leading underscore."""
    # Not with pkgutil, which takes a folder that cannot be read just now for an empty one.
    entries = (entry for folder in package.__path__ for entry in Path(folder).iterdir())
    return tuple(sorted(name for name in _modules(entries) if not name.startswith("_")))


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


def _modules(entries: Iterator[Path]) -> Iterator[str]:
    for entry in entries:
        if entry.suffix == ".py" or (entry / "__init__.py").is_file():
            yield entry.stem
