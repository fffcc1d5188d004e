"""The modules of an adapter as PEFT writes them: names in keys and in patterns, and alphas."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from loratools.adapter import Adapter, Update
from loratools.deltas.dora import DoRA
from loratools.deltas.lora import LoRA, Rule
from loratools.errors import UnsupportedError, shorten
from loratools.formats.peft.keys import OUT_PROJ_TIMES


@final
@dataclass(frozen=True)
class Module:
    """A module with a LoRA: `path` is what patterns are matched with, `key` what keys begin with.

    `alpha` is what the config has to give it.
    """

    path: str
    key: str
    target: str
    update: Update
    lora: LoRA
    alpha: float


def common_rule(adapter: Adapter) -> Rule:
    """The one scaling rule of a config: the stabilised one only where every update has it."""
    rules = [u.delta.low_rank.scaling.rule for u in adapter.updates.values() if u.delta.low_rank]
    return "sqrt_rank" if rules and set(rules) == {"sqrt_rank"} else "rank"


def modules_of(adapter: Adapter, rule: Rule) -> tuple[Module, ...]:
    """The modules with a LoRA, in the adapter's order.

    Raises:
        UnsupportedError: PEFT cannot keep a module as it is.
    """
    suffix = ".in_proj_weight"
    attention = {t.removesuffix(suffix) for t in adapter.updates if t.endswith(suffix)}
    modules = []
    for target, update in adapter.updates.items():
        lora = update.delta.low_rank
        if lora is None:
            continue
        path = key = target.removesuffix(suffix)
        times = 1
        if path == target:
            if not target.endswith(".weight"):
                raise UnsupportedError(f"{adapter.where}: {shorten(target)}: not a module's weight")
            path = key = target.removesuffix(".weight")
            outer = path.removesuffix(".out_proj")
            if outer != path and outer in attention:
                path, key, times = outer, f"{outer}.base_layer.out_proj", OUT_PROJ_TIMES
        if isinstance(update.delta, DoRA):
            _check_axis(adapter, target, update.delta, is_embedding=update.is_embedding)
        modules.append(Module(path, key, target, update, lora, _alpha(lora, rule, times)))
    _check_paths(adapter, modules)
    return tuple(modules)


def _check_axis(adapter: Adapter, target: str, delta: DoRA, *, is_embedding: bool) -> None:
    if (delta.axis == "column") != is_embedding:
        raise UnsupportedError(
            f"{adapter.where}: {shorten(target)}: PEFT has a magnitude for each output, and "
            f"this DoRA has one for each {delta.axis}"
        )


def _alpha(lora: LoRA, rule: Rule, times: int) -> float:
    """The alpha that gives the update its strength at the rank that is stored."""
    scaling = lora.scaling
    if (scaling.rule, scaling.rank, scaling.times) == (rule, lora.rank, times):
        return scaling.alpha
    divisor = math.sqrt(lora.rank) if rule == "sqrt_rank" else lora.rank
    return scaling.value / times * divisor


def _check_paths(adapter: Adapter, modules: Sequence[Module]) -> None:
    found: dict[str, tuple[int, float]] = {}
    for module in modules:
        settings = (module.lora.rank, module.alpha)
        if found.setdefault(module.path, settings) != settings:
            raise UnsupportedError(
                f"{adapter.where}: {shorten(module.path)}: PEFT gives the projections of an "
                f"attention one rank and one alpha, and these differ"
            )
