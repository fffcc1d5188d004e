"""An adapter as PEFT stores it: keys, and a config that says the same as the tensors."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from loratools.adapter import Adapter
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.deltas.kasa import KaSA
from loratools.errors import UnsupportedError, shorten
from loratools.formats.peft.config_write import config_of
from loratools.formats.peft.keys import PREFIX
from loratools.formats.peft.modules import Module, common_rule, modules_of
from loratools.io.bundle import Bundle
from loratools.io.computed import Computed
from loratools.io.dtypes import computed, nbytes
from loratools.io.source import Held, Reshaped, Source, transposed

if TYPE_CHECKING:
    from torch import Tensor


def encode(adapter: Adapter) -> Bundle:
    """The adapter's folder; keys have the usual form, and the config says the tensors' ranks.

    Raises:
        UnsupportedError: PEFT has no place for something in it.
    """
    rule = common_rule(adapter)
    modules = modules_of(adapter, rule)
    tensors = dict(_tensors(adapter, modules))
    return Bundle(
        where=adapter.where,
        tensors={PREFIX + name: source for name, source in tensors.items()},
        metadata=(adapter.filed.metadata if adapter.filed else None) or {"format": "pt"},
        config=config_of(adapter, modules, rule),
        companions=adapter.companions,
        nbytes=sum(nbytes(source.dtype, source.shape) for source in tensors.values()),
    )


def _tensors(adapter: Adapter, modules: Sequence[Module]) -> Iterator[tuple[str, Source]]:
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


def _factors(module: Module) -> Iterator[tuple[str, Source]]:
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


def _bias_target(module: Module) -> str:
    if module.target.endswith(".in_proj_weight"):
        return f"{module.path}.in_proj_bias"
    return f"{module.target.removesuffix('.weight')}.bias"


def _bias(adapter: Adapter, module: Module) -> Source | None:
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
    dtype = computed(values.dtype)
    return Computed((values,), dtype, values.shape, partial(_multiplied, factor=ratio))


def _multiplied(tensors: "Sequence[Tensor]", factor: float) -> "Tensor":
    return tensors[0].double() * factor


def _no_bias(module: Module) -> Source:
    import torch

    rows = module.lora.shape[0]
    return Held(f"{module.key}.lora_B.bias", torch.zeros(rows), "F32")


def _refuse_others(adapter: Adapter, modules: Sequence[Module]) -> None:
    for module in modules:
        delta = module.update.delta
        if delta is not module.lora and not isinstance(delta, DoRA | KaSA):
            raise UnsupportedError(
                f"{adapter.where}: {shorten(module.target)}: PEFT has no place for a {delta.kind}"
            )
    targets, biases = {m.target for m in modules}, {_bias_target(m) for m in modules}
    for target, update in adapter.updates.items():
        is_bias = target in biases and isinstance(update.delta, Diff)
        if target not in targets and not is_bias:
            raise UnsupportedError(
                f"{adapter.where}: {shorten(target)}: PEFT has no place for a {update.delta.kind} "
                f"without a LoRA on the same module"
            )
