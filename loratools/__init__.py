"""loratools: inspect, merge and reshape stored LoRA adapters. Exact, or it says by how much.

The names below are imported when they are first used, so that `import loratools` is cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

from loratools.version import __version__ as __version__

if TYPE_CHECKING:
    from loratools.adapter import Adapter
    from loratools.describing.inspect import inspect
    from loratools.errors import LoratoolsError
    from loratools.extracting.plan import ExtractOptions
    from loratools.extracting.svd_extract import ExtractRun, svd_extract
    from loratools.files.opening import open_adapter
    from loratools.lowrank.ranks import RankRule
    from loratools.merging.execute import WriteOptions
    from loratools.merging.merge import merge
    from loratools.merging.plan import MergeOptions
    from loratools.methods import MethodOptions
    from loratools.publishing.pull import pull
    from loratools.publishing.push import PushOptions, push
    from loratools.reshaping.combine import combine
    from loratools.reshaping.combined import Combination
    from loratools.reshaping.rescale import rescale
    from loratools.reshaping.rescaled import Rescaling
    from loratools.reshaping.resize import resize

#: The module that defines each public name.
_HOMES = {
    "Adapter": "loratools.adapter",
    "Combination": "loratools.reshaping.combined",
    "ExtractOptions": "loratools.extracting.plan",
    "ExtractRun": "loratools.extracting.svd_extract",
    "LoratoolsError": "loratools.errors",
    "MergeOptions": "loratools.merging.plan",
    "MethodOptions": "loratools.methods",
    "PushOptions": "loratools.publishing.push",
    "RankRule": "loratools.lowrank.ranks",
    "Rescaling": "loratools.reshaping.rescaled",
    "WriteOptions": "loratools.merging.execute",
    "combine": "loratools.reshaping.combine",
    "inspect": "loratools.describing.inspect",
    "merge": "loratools.merging.merge",
    "open_adapter": "loratools.files.opening",
    "pull": "loratools.publishing.pull",
    "push": "loratools.publishing.push",
    "rescale": "loratools.reshaping.rescale",
    "resize": "loratools.reshaping.resize",
    "svd_extract": "loratools.extracting.svd_extract",
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
