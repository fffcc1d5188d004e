"""A folder is a registry: `formats/peft.py` *is* the format `peft`.

Names are listed without importing anything; a plug-in is imported when it is asked for.
"""

import importlib
from pathlib import Path
from types import ModuleType

from loratools.errors import UnsupportedError


def names(package: ModuleType) -> tuple[str, ...]:
    """The plug-ins of `package`, sorted; files that begin with an underscore are not plug-ins."""
    # Not by pkgutil, to which a folder that cannot be read just now is one without plug-ins.
    files = (file for folder in package.__path__ for file in Path(folder).iterdir())
    found = (file.stem for file in files if file.suffix == ".py")
    return tuple(sorted(name for name in found if not name.startswith("_")))


def load(package: ModuleType, name: str) -> ModuleType:
    """The plug-in `name` of `package`.

    Raises:
        UnsupportedError: no file of that name is in the folder.
    """
    known = names(package)
    if name not in known:
        raise UnsupportedError(
            f"{name!r} is not one of {package.__name__}: it has {', '.join(known)}"
        )
    return importlib.import_module(f"{package.__name__}.{name}")
