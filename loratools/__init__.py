"""loratools: inspect, merge and reshape stored LoRA adapters. Exact, or it says by how much.

The public names are the verbs, what they take and return, and the errors. Verbs take paths, names
on the Hub (`hf://owner/name`) and opened adapters; `help(loratools.resize)` has all arguments.

Example:
    >>> import loratools
    >>> adapter = loratools.open_adapter("fixtures/adapters/plain")
    >>> adapter["layers.0.self_attn.q_proj"].update().shape  # ΔW, as a tensor
    torch.Size([64, 64])
    >>> both = loratools.combine([(adapter, 0.7), ("fixtures/adapters/combine-r4", 0.3)])
    >>> small = loratools.resize(both, rank=4)  # in memory
    >>> small.report
    <ResizeReport: kept 94.87% of the energy, relative error 0.227>
    >>> loratools.merge("fixtures/stories260k", small).accounting  # output= writes it
    '70 of 70 adapter tensors applied to 35 weights; 13 base tensors unchanged'
"""

# Each name is imported when it is first used, so that `import loratools` is cheap. Type checkers
# read them in `__init__.pyi`, which `scripts/make_stub.py` makes of the table below.

import importlib
from importlib.machinery import PathFinder
from typing import Any

from loratools.version import __version__ as __version__

#: The public names that each module defines.
_PUBLIC = {
    "loratools.adapter": ("Adapter",),
    "loratools.describing.description": ("Inspection",),
    "loratools.describing.inspect": ("inspect",),
    "loratools.describing.rows": ("Inspections",),
    "loratools.errors": (
        "AnswerError",
        "ArgumentError",
        "ConflictError",
        "FormatError",
        "HubError",
        "LoratoolsError",
        "MatchError",
        "NetworkError",
        "NonFiniteError",
        "NotAnAdapterError",
        "OptionError",
        "OutputError",
        "ShapeMismatchError",
        "StorageError",
        "TargetError",
        "UnansweredError",
        "UnsupportedError",
    ),
    "loratools.extracting.plan": ("ExtractOptions",),
    "loratools.extracting.report": ("ExtractReport",),
    "loratools.extracting.svd_extract": ("svd_extract",),
    "loratools.extracting.writing": ("ExtractRun",),
    "loratools.files.in_memory": ("adapter_from_tensors",),
    "loratools.files.opening": ("open_adapter",),
    "loratools.lowrank.ranks": ("RankRule",),
    "loratools.merging.execute": ("WriteOptions",),
    "loratools.merging.merge": ("merge",),
    "loratools.merging.plan": ("MergeOptions",),
    "loratools.merging.report": ("MergeReport",),
    "loratools.methods": ("MethodOptions",),
    "loratools.publishing.pull": ("Pulled", "pull"),
    "loratools.publishing.push": ("push",),
    "loratools.publishing.push_options": ("PushOptions",),
    "loratools.publishing.push_report": ("PushReport",),
    "loratools.reshaping.combine": ("CombineReport", "combine"),
    "loratools.reshaping.combined": ("Combination",),
    "loratools.reshaping.convert": ("ConvertReport", "convert"),
    "loratools.reshaping.rescale": ("RescaleReport", "rescale"),
    "loratools.reshaping.rescaled": ("Rescaling",),
    "loratools.reshaping.resize": ("ResizeReport", "resize"),
    "loratools.swapping.report": ("SwapReport",),
    "loratools.swapping.swap": ("swap",),
    "loratools.target": ("Target",),
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_MODULES)  # noqa: PLE0605 (a list, which type checkers read in the stub)


def __getattr__(name: str) -> Any:
    if name == "errors":  # the module, whose table of errors the help of every verb names
        return importlib.import_module("loratools.errors")
    if name not in _MODULES:
        from loratools.nearest import meant
        from loratools.other_words import COMMANDS

        # `from loratools import cli` asks for an attribute first, and then for the module.
        is_module = PathFinder.find_spec(f"{__name__}.{name}", __path__) is not None
        found = None if name.startswith("_") or is_module else meant(name, _MODULES, COMMANDS)
        hint = "" if found is None else f"; did you mean {found!r}?"
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
