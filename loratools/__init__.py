"""loratools: inspect, merge and reshape stored LoRA adapters. Exact, or it says by how much.

The names below are imported when they are first used, so that `import loratools` is cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loratools.errors import LoratoolsError
    from loratools.files.inspecting import inspect
    from loratools.files.merging import WriteOptions, merge
    from loratools.files.opening import open_adapter
    from loratools.operations.merge import MergeOptions

__version__ = "0.1.0"

_HOMES = {
    "LoratoolsError": "loratools.errors",
    "MergeOptions": "loratools.operations.merge",
    "WriteOptions": "loratools.files.merging",
    "inspect": "loratools.files.inspecting",
    "merge": "loratools.files.merging",
    "open_adapter": "loratools.files.opening",
}

__all__ = ["LoratoolsError", "MergeOptions", "WriteOptions", "inspect", "merge", "open_adapter"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
