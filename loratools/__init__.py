"""loratools: inspect, merge and reshape stored LoRA adapters. Exact, or it says by how much.

The names below are imported when they are first used, so that `import loratools` is cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loratools.adapter import Adapter
    from loratools.errors import LoratoolsError
    from loratools.files.combining import combine
    from loratools.files.extracting import ExtractRun, svd_extract
    from loratools.files.inspecting import inspect
    from loratools.files.merging import WriteOptions, merge
    from loratools.files.opening import open_adapter
    from loratools.files.pulling import pull
    from loratools.files.pushing import PushOptions, push
    from loratools.files.rescaling import rescale
    from loratools.files.resizing import resize
    from loratools.lowrank.ranks import RankRule
    from loratools.methods import MethodOptions
    from loratools.operations.combine import Combination
    from loratools.operations.extract import ExtractOptions
    from loratools.operations.merge import MergeOptions
    from loratools.operations.rescale import Rescaling

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "loratools.adapter",
    "Combination": "loratools.operations.combine",
    "ExtractOptions": "loratools.operations.extract",
    "ExtractRun": "loratools.files.extracting",
    "LoratoolsError": "loratools.errors",
    "MergeOptions": "loratools.operations.merge",
    "MethodOptions": "loratools.methods",
    "PushOptions": "loratools.files.pushing",
    "RankRule": "loratools.lowrank.ranks",
    "Rescaling": "loratools.operations.rescale",
    "WriteOptions": "loratools.files.merging",
    "combine": "loratools.files.combining",
    "inspect": "loratools.files.inspecting",
    "merge": "loratools.files.merging",
    "open_adapter": "loratools.files.opening",
    "pull": "loratools.files.pulling",
    "push": "loratools.files.pushing",
    "rescale": "loratools.files.rescaling",
    "resize": "loratools.files.resizing",
    "svd_extract": "loratools.files.extracting",
}

__all__ = [
    "Adapter",
    "Combination",
    "ExtractOptions",
    "ExtractRun",
    "LoratoolsError",
    "MergeOptions",
    "MethodOptions",
    "PushOptions",
    "RankRule",
    "Rescaling",
    "WriteOptions",
    "combine",
    "inspect",
    "merge",
    "open_adapter",
    "pull",
    "push",
    "rescale",
    "resize",
    "svd_extract",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
