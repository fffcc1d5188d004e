"""The tensors of MLX's modules as updates, and updates as such tensors.

MLX multiplies from the right, so its factors are those of the transposed weight: a linear layer has
`lora_a` (in, rank) and `lora_b` (rank, out). An embedding has (tokens, rank) and (rank, width).
Experts have one pair each, in the orientation of their weight: (experts, rank, in) and
(experts, out, rank).
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from loratools.deltas import Delta
from loratools.deltas.dora import DoRA
from loratools.deltas.lora import LoRA
from loratools.deltas.stacked import Stacked
from loratools.errors import FormatError, ShapeMismatchError, UnsupportedError
from loratools.formats.mlx.config import MlxConfig
from loratools.io.computed import multiplied, rearranged
from loratools.io.source import Source
from loratools.names.tied import is_lookup
from loratools.parts import Update

if TYPE_CHECKING:
    from torch import Tensor

LORA_A, LORA_B, MAGNITUDE = "lora_a", "lora_b", "m"


def decoded(where: str, module: str, parts: Mapping[str, Source], config: MlxConfig) -> Update:
    """The update of a module's weight.

    Raises:
        FormatError: a factor is missing.
        ShapeMismatchError: the tensors do not fit each other.
        UnsupportedError: they do not form an update that MLX has.
    """
    a, b = (parts.get(name) for name in (LORA_A, LORA_B))
    if a is None or b is None:
        there, missing = (LORA_B, LORA_A) if a is None else (LORA_A, LORA_B)
        raise FormatError(f"{where} has {there} and no {missing}: half an update")
    if len(b.shape) == 3:
        return _of_experts(where, a, b, parts, config)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[0]:
        raise ShapeMismatchError(
            f"{where}: lora_a {list(a.shape)} and lora_b {list(b.shape)} do not fit: expected "
            f"(in, rank) and (rank, out), or (experts, rank, in) and (experts, out, rank)"
        )
    scaling = config.scaling(a.shape[1])
    is_embedding = is_lookup(f"{module}.weight", a.shape[0], None)
    shape = (a.shape[0], b.shape[1])
    lora = LoRA(a, b, scaling, shape)
    if not is_embedding:
        lora = lora.transposed()
    magnitude = parts.get(MAGNITUDE)
    delta: Delta = lora if magnitude is None else DoRA(lora, magnitude, "row")
    orientation = None if is_embedding else False
    return Update(delta, orientation, is_embedding=is_embedding, is_shared=is_embedding)


def _of_experts(
    where: str, a: Source, b: Source, parts: Mapping[str, Source], config: MlxConfig
) -> Update:
    """The update of a layer of experts, whose weight is (experts, out, in)."""
    if MAGNITUDE in parts:
        raise UnsupportedError(f"{where}: magnitudes of experts, which mlx-lm does not have")
    experts, out, rank = b.shape
    columns = a.shape[-1] if a.shape else 0
    if a.shape == (experts * rank, columns):  # as the first versions of mlx-lm stored it
        a = rearranged(a, (experts, rank, columns), partial(_split, experts=experts))
    return Update(Stacked(b, a, config.scaling(rank), (experts, out, columns)))


def _split(tensor: "Tensor", experts: int) -> "Tensor":
    return tensor.reshape(experts, -1, tensor.shape[-1])


def rank_of(delta: Delta) -> int | None:
    """The rank of the factors of an update; None if MLX has no place for its kind."""
    if isinstance(delta, Stacked):
        return delta.rank
    is_kept = isinstance(delta, LoRA | DoRA) and len(delta.shape) == 2
    return delta.low_rank.rank if is_kept and delta.low_rank else None


def encoded(
    where: str, target: str, update: Update, *, rank: int, factor: float
) -> Iterator[tuple[str, Source]]:
    """The tensors of an update by the names of their parts, filled up with zeros to `rank`.

    `lora_b` is multiplied with `factor`.

    Raises:
        UnsupportedError: MLX has no place for such an update.
    """
    delta = update.delta
    if rank_of(delta) is None:
        raise UnsupportedError(f"{where}: MLX has no place for a {delta.kind} {list(delta.shape)}")
    if isinstance(delta, Stacked):
        if len(delta.shape) != 3 or delta.down.shape[0] != delta.shape[0]:
            raise UnsupportedError(
                f"{where}: MLX has a {delta.kind} for experts, with a pair of factors for each"
            )
        yield LORA_A, padded(delta.down, 1, rank)
        yield LORA_B, padded(multiplied(delta.up, factor), 2, rank)
        return
    lora = delta.low_rank
    assert lora is not None, delta.kind
    turned = lora if update.is_embedding else lora.transposed()
    if is_lookup(target, turned.shape[0], None) != update.is_embedding:
        what = "an embedding" if update.is_embedding else "a linear layer"
        raise UnsupportedError(
            f"{where}: is {what}, which nobody would know by its name: MLX's files do not say it"
        )
    if update.is_embedding and not update.is_shared:
        raise UnsupportedError(
            f"{where}: an update of the embedding alone, and MLX's would act on the head too, in a "
            f"model that ties the two"
        )
    yield LORA_A, padded(turned.up, 1, rank)
    yield LORA_B, padded(multiplied(turned.down, factor), 0, rank)
    if isinstance(delta, DoRA):
        if delta.axis != "row":
            raise UnsupportedError(
                f"{where}: MLX has a magnitude for each row of a weight, and this DoRA has one for "
                f"each column"
            )
        yield MAGNITUDE, delta.magnitude


def padded(source: Source, axis: int, size: int) -> Source:
    """The source with zeros at the end of an axis, so that it has this size there."""
    missing = size - source.shape[axis]
    if not missing:
        return source
    shape = (*source.shape[:axis], size, *source.shape[axis + 1 :])
    # torch's order of sides begins with the last axis.
    sides = (0, 0) * (len(shape) - 1 - axis) + (0, missing)
    return rearranged(source, shape, partial(_padded, sides=sides))


def _padded(tensor: "Tensor", sides: tuple[int, ...]) -> "Tensor":
    import torch

    return torch.nn.functional.pad(tensor, sides)
