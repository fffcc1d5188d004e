"""An adapter as sd-scripts file it: alphas as tensors, and metadata that is true of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from loratools.adapter import Adapter, Filed, Update
from loratools.deltas.lora import LoRA
from loratools.errors import UnsupportedError, shorten
from loratools.formats.kohya.hashes import placeholders, seal
from loratools.formats.kohya.keys import ALPHA, DOWN, UP
from loratools.formats.kohya.metadata import Size, corrected, has_kernel
from loratools.io.bundle import Bundle
from loratools.io.dtypes import BITS, nbytes, to_torch
from loratools.io.scalar import SCALARS, read_scalar, rounded
from loratools.io.source import Held, Source, reshaped


@final
@dataclass(frozen=True)
class _Module:
    """A module's update, and the alpha to be stored: no tensor where a missing one still holds."""

    name: str
    lora: LoRA
    alpha: float
    stored_alpha: Source | None


def encode(adapter: Adapter) -> Bundle:
    """The adapter's file; tensors have the order in which they were filed.

    Raises:
        UnsupportedError: the format has no place for something in it.
    """
    _refuse_others(adapter)
    alphas = [u.delta.low_rank.scaling.source for u in adapter.updates.values() if u.delta.low_rank]
    dtypes = [source.dtype for source in alphas if source is not None]
    modules = [
        _module(adapter, target, update, dtypes[0] if dtypes else None)
        for target, update in adapter.updates.items()
    ]
    filed = adapter.filed or Filed("kohya")
    tensors = _in_order(filed.order, dict(_tensors(modules)))
    metadata = corrected(filed.metadata, [_size(module) for module in modules])
    hashes = placeholders(metadata)
    return Bundle(
        where=adapter.where,
        tensors=tensors,
        metadata=metadata | hashes,
        config=None,
        companions=(),
        nbytes=sum(nbytes(source.dtype, source.shape) for source in tensors.values()),
        seal=seal if hashes else None,
    )


def _refuse_others(adapter: Adapter) -> None:
    for group, what in ((adapter.replaced, "a tensor stored whole"), (adapter.rows, "single rows")):
        for target in group:
            raise UnsupportedError(
                f"{adapter.where}: {shorten(target)}: a kohya file has no place for {what}"
            )


def _module(adapter: Adapter, target: str, update: Update, alpha_dtype: str | None) -> _Module:
    where = f"{adapter.where}: {shorten(target)}"
    lora = update.delta
    if not isinstance(lora, LoRA):
        raise UnsupportedError(f"{where}: a kohya file of LoRAs has no place for a {lora.kind}")
    name = target.removesuffix(".weight")
    if name == target or "." in name:
        raise UnsupportedError(f"{where}: not the flattened name of a module with `.weight`")
    if update.is_embedding or update.fan_in_fan_out:
        raise UnsupportedError(
            f"{where}: a kohya file has no place for an embedding, or for a weight stored as "
            f"(in, out)"
        )
    alpha, scaling = _alpha(lora), lora.scaling
    if scaling.source is not None and read_scalar(scaling.source) == alpha:
        return _Module(name, lora, alpha, scaling.source)
    # Readers take a missing alpha for the rank: it stays missing while that is what it is.
    if scaling.origin == "assumed" and alpha == lora.rank:
        return _Module(name, lora, alpha, None)
    filed = scaling.source
    dtype = filed.dtype if filed is not None else alpha_dtype or lora.down.dtype
    shape = filed.shape if filed is not None else ()
    return _Module(name, lora, alpha, _number(f"{name}.{ALPHA}", alpha, dtype, shape))


def _alpha(lora: LoRA) -> float:
    """The alpha that gives the update its strength at the rank that is stored."""
    scaling = lora.scaling
    if (scaling.rule, scaling.rank, scaling.times) == ("rank", lora.rank, 1):
        return scaling.alpha
    return scaling.value * lora.rank


def _number(key: str, number: float, dtype: str, shape: tuple[int, ...]) -> Source:
    """A tensor of one number: of this dtype, or of the narrowest float that has it exactly."""
    import torch

    fitting = (d for d in (dtype, "F32") if d in SCALARS and rounded(number, d) == number)
    stored = next(fitting, "F64")
    tensor = torch.tensor(number, dtype=torch.float64).to(to_torch(stored)).reshape(shape)
    return Held(key, tensor, stored)


def _tensors(modules: Sequence[_Module]) -> Iterator[tuple[str, Source]]:
    for module in modules:
        lora = module.lora
        if module.stored_alpha is not None:
            yield f"{module.name}.{ALPHA}", module.stored_alpha
        kernel = (1,) * (len(lora.shape) - 2)
        yield f"{module.name}.{DOWN}", reshaped(lora.down, (lora.rank, *lora.shape[1:]))
        yield f"{module.name}.{UP}", reshaped(lora.up, (lora.shape[0], lora.rank, *kernel))


def _in_order(order: Sequence[str], tensors: Mapping[str, Source]) -> dict[str, Source]:
    """As they were filed; a new one after the one before it; wider dtypes before narrower ones.

    Files of mixed dtypes are sorted so by safetensors itself, which keeps every tensor aligned.
    """
    filed = {key: position for position, key in enumerate(order)}
    positions = {}
    position = -1
    for key in tensors:
        position = positions[key] = filed.get(key, position)
    keys = sorted(tensors, key=lambda key: (-BITS[tensors[key].dtype], positions[key]))
    return {key: tensors[key] for key in keys}


def _size(module: _Module) -> Size:
    dtype = module.stored_alpha.dtype if module.stored_alpha else "F64"
    return Size(module.lora.rank, module.alpha, dtype, has_kernel(module.lora.shape))
