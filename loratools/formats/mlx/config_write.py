"""The config of a written MLX adapter: the one that was read, corrected where it is not true."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from loratools.adapter import Adapter
from loratools.formats.mlx.config import FineTuneType

#: All blocks of the model, whose number an adapter does not say.
_ALL_LAYERS = -1
#: A module in a block: the list of blocks, the number of the block, and the name in the block.
_IN_BLOCK = re.compile(r"(?P<blocks>(?:[^.]+\.)+?)(?P<number>\d+)\.(?P<name>.+)")


@final
@dataclass(frozen=True)
class Contents:
    """What is written: the type of training, the modules, and their common rank and scale."""

    type: FineTuneType
    modules: tuple[str, ...]
    rank: int
    scale: float


def config_of(adapter: Adapter, contents: Contents) -> dict[str, Any]:
    """The config of an adapter with these contents; fields that are still true are kept."""
    filed = adapter.filed.config if adapter.filed is not None else None
    config: dict[str, Any] = dict(filed or {})
    config["fine_tune_type"] = contents.type
    # Names and settings of older versions, which the fields below replace.
    lowest = config.pop("lora_layers", None)
    config.pop("use_dora", None)
    before = config.get("num_layers", lowest)
    if adapter.provenance.base is not None:
        config["model"] = adapter.provenance.base
    if contents.type == "full":
        config["num_layers"] = before if isinstance(before, int) else _ALL_LAYERS
        return config
    order = adapter.filed.order if adapter.filed is not None else ()
    config["num_layers"] = _layers(before, contents.modules, order)
    config["lora_parameters"] = _parameters(config.get("lora_parameters") or {}, contents)
    return config


def _parameters(before: Mapping[str, Any], contents: Contents) -> dict[str, Any]:
    """The field `lora_parameters`, of which the loader requires rank, scale and dropout."""
    parameters = {"dropout": 0.0, **before, "rank": contents.rank}
    parameters.pop("alpha", None)
    if parameters.get("scale") != contents.scale:
        parameters["scale"] = contents.scale
    keys = parameters.get("keys")
    if not _are_named(keys, contents.modules):
        parameters["keys"] = _keys(contents.modules)
    return parameters


def _are_named(keys: object, modules: Sequence[str]) -> bool:
    """Whether the loader makes all of the modules with these keys.

    Without keys it makes every linear layer and embedding in the blocks, and none outside.
    """
    matches = [_IN_BLOCK.fullmatch(module) for module in modules]
    if keys is None:
        return all(matches)
    names = frozenset(keys if isinstance(keys, list) else ())
    return all(
        module in names or (match is not None and match["name"] in names)
        for module, match in zip(modules, matches, strict=True)
    )


def _keys(modules: Sequence[str]) -> list[str]:
    """Names for all of the modules: inside the main list of blocks those in their block, else full.

    Only one list of blocks is the model's own, to whose blocks the loader applies such names: here,
    the one with the most modules. A full name always works.
    """
    matches = {module: _IN_BLOCK.fullmatch(module) for module in modules}
    lists = [match["blocks"] for match in matches.values() if match]
    main = max(dict.fromkeys(lists), key=lists.count, default=None)
    named = (
        match["name"] if match and match["blocks"] == main else module
        for module, match in matches.items()
    )
    return list(dict.fromkeys(named))


def _layers(before: object, modules: Sequence[str], order: Sequence[str]) -> int:
    """The number of blocks, counted from the last: as it was read, if it still holds them all."""
    found, known = _lowest(modules), _lowest(order)
    is_held = found is None or (known is not None and found >= known)
    return before if type(before) is int and is_held else _ALL_LAYERS


def _lowest(names: Sequence[str]) -> int | None:
    matches = map(_IN_BLOCK.fullmatch, names)
    return min((int(match["number"]) for match in matches if match), default=None)
