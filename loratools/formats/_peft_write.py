"""An adapter as PEFT stores it: keys, and a config that says the same as the tensors."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, final

from loratools.adapter import Adapter, Update
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.deltas.kasa import KaSA
from loratools.deltas.lora import LoRA, Rule
from loratools.errors import UnsupportedError, shorten
from loratools.formats._peft_config import PeftConfig, parse_config
from loratools.formats._peft_keys import OUT_PROJ_TIMES, PREFIX, is_inside
from loratools.io.bundle import Bundle
from loratools.io.dtypes import nbytes
from loratools.io.source import Computed, Held, Reshaped, Source, transposed

if TYPE_CHECKING:
    from torch import Tensor

_DEFAULTS: Mapping[str, Any] = {
    "peft_type": "LORA",
    "task_type": None,
    "base_model_name_or_path": None,
    "inference_mode": True,
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_dropout": 0.0,
    "modules_to_save": None,
}
#: PEFT's own word for an adapter that only saves modules.
_NO_TARGETS = "dummy-target-modules"
#: How factors were stored that are written in full here.
_EXPANDED = ("enable_lora", "use_bdlora")


@final
@dataclass(frozen=True)
class _Module:
    """A module with a LoRA: `path` is what patterns are matched with, `key` what keys begin with.

    `alpha` is what the config has to give it.
    """

    path: str
    key: str
    target: str
    update: Update
    lora: LoRA
    alpha: float


def encode(adapter: Adapter) -> Bundle:
    """The adapter's folder; keys have the usual form, and the config says the tensors' ranks.

    Raises:
        UnsupportedError: PEFT has no place for something in it.
    """
    rule = _rule(adapter)
    modules = _modules(adapter, rule)
    tensors = dict(_tensors(adapter, modules))
    return Bundle(
        where=adapter.where,
        tensors={PREFIX + name: source for name, source in tensors.items()},
        metadata=adapter.metadata or {"format": "pt"},
        config=_config(adapter, modules, rule),
        companions=adapter.companions,
        nbytes=sum(nbytes(source.dtype, source.shape) for source in tensors.values()),
    )


def _rule(adapter: Adapter) -> Rule:
    """The one scaling rule of a config: the stabilised one only where every update has it."""
    rules = [u.delta.low_rank.scaling.rule for u in adapter.updates.values() if u.delta.low_rank]
    return "sqrt_rank" if rules and set(rules) == {"sqrt_rank"} else "rank"


def _modules(adapter: Adapter, rule: Rule) -> tuple[_Module, ...]:
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
        modules.append(_Module(path, key, target, update, lora, _alpha(lora, rule, times)))
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


def _check_paths(adapter: Adapter, modules: Sequence[_Module]) -> None:
    found: dict[str, tuple[int, float]] = {}
    for module in modules:
        settings = (module.lora.rank, module.alpha)
        if found.setdefault(module.path, settings) != settings:
            raise UnsupportedError(
                f"{adapter.where}: {shorten(module.path)}: PEFT gives the projections of an "
                f"attention one rank and one alpha, and these differ"
            )


# --- tensors -----------------------------------------------------------------------------------


def _tensors(adapter: Adapter, modules: Sequence[_Module]) -> Iterator[tuple[str, Source]]:
    biases = {module.key: _bias(adapter, module) for module in modules}
    has_biases = any(bias is not None for bias in biases.values())
    for module in modules:
        yield from _factors(module)
        if has_biases and not module.update.is_embedding:
            yield f"{module.key}.lora_B.bias", biases[module.key] or _no_bias(module)
    _refuse_others(adapter, modules)
    wrapped = {module.key for module in modules}
    tokens = {target.removesuffix(".weight") for target in adapter.rows}
    for target, replacement in adapter.replaced.items():
        owner, _, parameter = target.rpartition(".")
        if owner in tokens:
            owner += ".token_adapter"
        inside = owner in wrapped or owner.endswith(".token_adapter")
        yield f"{owner}.base_layer.{parameter}" if inside else target, replacement.source
    for target, rows in adapter.rows.items():
        module_name = target.removesuffix(".weight")
        yield f"{module_name}.token_adapter.trainable_tokens_delta", rows.rows


def _factors(module: _Module) -> Iterator[tuple[str, Source]]:
    lora, delta = module.lora, module.update.delta
    kernel = (1,) * (len(lora.shape) - 2)
    if module.update.is_embedding:
        yield f"{module.key}.lora_embedding_A", transposed(lora.up)
        yield f"{module.key}.lora_embedding_B", transposed(lora.down)
    else:
        yield f"{module.key}.lora_A.weight", _shaped(lora.down, (lora.rank, *lora.shape[1:]))
        yield f"{module.key}.lora_B.weight", _shaped(lora.up, (*lora.up.shape, *kernel))
    if isinstance(delta, DoRA):
        shape = (1, *delta.magnitude.shape, *kernel) if kernel else delta.magnitude.shape
        yield f"{module.key}.lora_magnitude_vector", _shaped(delta.magnitude, shape)
    elif isinstance(delta, KaSA):
        yield f"{module.key}.lora_diag", delta.diagonal


def _shaped(source: Source, shape: tuple[int, ...]) -> Source:
    if isinstance(source, Reshaped) and source.source.shape == shape:
        return source.source
    return (
        source
        if source.shape == shape
        else Computed((source,), source.dtype, shape, partial(_reshape, shape=shape))
    )


def _reshape(tensors: "Sequence[Tensor]", shape: tuple[int, ...]) -> "Tensor":
    return tensors[0].reshape(shape)


def _bias_target(module: _Module) -> str:
    if module.target.endswith(".in_proj_weight"):
        return f"{module.path}.in_proj_bias"
    return f"{module.target.removesuffix('.weight')}.bias"


def _bias(adapter: Adapter, module: _Module) -> Source | None:
    """The bias's update, as what PEFT multiplies with the scaling of the module's factors."""
    update = adapter.updates.get(_bias_target(module))
    if update is None or not isinstance(update.delta, Diff):
        return None
    values, scaling = update.delta.values, module.lora.scaling
    if update.delta.scaling.value == scaling.value:
        return values
    if not scaling.value:
        raise UnsupportedError(
            f"{adapter.where}: {shorten(module.path)}: a bias with a scaling of 0"
        )
    ratio = update.delta.scaling.value / scaling.value
    return Computed((values,), values.dtype, values.shape, partial(_multiplied, factor=ratio))


def _multiplied(tensors: "Sequence[Tensor]", factor: float) -> "Tensor":
    return tensors[0].double() * factor


def _no_bias(module: _Module) -> Source:
    import torch

    rows = module.lora.shape[0]
    return Held(f"{module.key}.lora_B.bias", torch.zeros(rows), "F32")


def _refuse_others(adapter: Adapter, modules: Sequence[_Module]) -> None:
    placed = {m.target for m in modules} | {_bias_target(m) for m in modules}
    for target, update in adapter.updates.items():
        if target not in placed:
            raise UnsupportedError(
                f"{adapter.where}: {shorten(target)}: PEFT has no place for a {update.delta.kind} "
                f"without a LoRA on the same module"
            )


# --- config ------------------------------------------------------------------------------------


def _config(adapter: Adapter, modules: Sequence[_Module], rule: Rule) -> dict[str, Any]:
    """The config as it was read where that still says what is stored; else with what does."""
    config = {**_DEFAULTS, **(adapter.config or {})}
    config |= dict.fromkeys(filter(config.get, _EXPANDED))
    config["use_rslora"] = rule == "sqrt_rank"
    config["use_dora"] = _all_or_none(adapter, modules, DoRA)
    if adapter.provenance.base is not None:
        config["base_model_name_or_path"] = adapter.provenance.base
    config["lora_bias"] = any(isinstance(u.delta, Diff) for u in adapter.updates.values())
    _set_ranks(config, adapter.where, modules)
    _set_replaced(config, adapter)
    _check_saved(config["modules_to_save"] or (), adapter.where, modules)
    return config


def _check_saved(saved: Sequence[str], where: str, modules: Sequence[_Module]) -> None:
    for module in modules:
        for name in saved:
            # PEFT's own rule, by which it passes over what is saved whole.
            if re.match(rf"(^|.*\.){name}($|\..*)", module.path):
                raise UnsupportedError(
                    f"{where}: {shorten(module.path)}: PEFT saves {name!r} whole, and has no place "
                    f"for a LoRA on it as well"
                )


def _all_or_none(adapter: Adapter, modules: Sequence[_Module], kind: type) -> bool:
    found = {isinstance(module.update.delta, kind) for module in modules}
    if len(found) > 1:
        raise UnsupportedError(
            f"{adapter.where}: PEFT has one kind of update in an adapter, and this has "
            f"{', '.join(adapter.kinds)}"
        )
    return found == {True}


def _set_ranks(config: dict[str, Any], where: str, modules: Sequence[_Module]) -> None:
    wanted = {module.path: (module.lora.rank, module.alpha) for module in modules}
    known = parse_config(config, where) if "r" in config else None
    if known is None or any(_said(known, path) != said for path, said in wanted.items()):
        ranks = Counter(rank for rank, _ in wanted.values())
        alphas = Counter(alpha for _, alpha in wanted.values())
        rank = ranks.most_common(1)[0][0] if ranks else config.get("r", 8)
        alpha = alphas.most_common(1)[0][0] if alphas else config.get("lora_alpha", rank)
        config |= {
            "r": rank,
            "lora_alpha": _plain(alpha),
            "rank_pattern": {_exactly(p): r for p, (r, _) in wanted.items() if r != rank},
            "alpha_pattern": {_exactly(p): _plain(a) for p, (_, a) in wanted.items() if a != alpha},
        }
    if known is None or any(
        known.is_target(path) is False or known.leaves_out(path) for path in wanted
    ):
        config["target_modules"] = list(wanted) or _NO_TARGETS
        for narrowing in ("exclude_modules", "layers_to_transform", "layers_pattern"):
            config[narrowing] = None


def _said(config: PeftConfig, path: str) -> tuple[int, float]:
    return config.expected_rank(path), config.scaling(path).alpha


def _exactly(path: str) -> str:
    """A pattern that matches this module and no other that ends in the same way."""
    return f"^{re.escape(path)}"


def _plain(number: float) -> float:
    return int(number) if float(number).is_integer() else number


def _set_replaced(config: dict[str, Any], adapter: Adapter) -> None:
    if adapter.rows:
        config["trainable_token_indices"] = {
            target.removesuffix(".weight"): list(rows.indices)
            for target, rows in adapter.rows.items()
        }
    listed = config.get("modules_to_save")
    saved = list(listed) if isinstance(listed, list) else []
    for target, replacement in adapter.replaced.items():
        if not replacement.is_trained or any(is_inside(target, name) for name in saved):
            continue
        if target.endswith("bias"):
            config["bias"] = "all" if config["bias"] == "none" else config["bias"]
        else:
            saved.append(target.rpartition(".")[0])
    config["modules_to_save"] = saved or None
