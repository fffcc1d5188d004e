"""Changes of several parts of a weight as one change of it: dW[rows of i] = scaling_i up_i down_i.

With (up, down) for each part, the fused update has a block-diagonal `up`, with one block for each
part, and all `down` stacked: its rank is the sum of their ranks. Parts that share one `down`, as
those have that were cut of one update, share it again. Rows of no part stay as they are. The other
way round, a part of an update with a block-diagonal `up` has its own block alone, and a lower rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, final

from loratools.deltas import Delta
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.deltas.lora import LoRA, Scaling
from loratools.deltas.placed import Run, placed
from loratools.errors import UnsupportedError
from loratools.io.computed import cast, joined, multiplied, taken
from loratools.io.source import Source, transposed
from loratools.io.values import same_bytes

if TYPE_CHECKING:
    from torch import Tensor


class Part(NamedTuple):
    """A change, and which of its rows are which rows of the whole weight."""

    delta: Delta
    runs: tuple[Run, ...]


def fused(parts: Sequence[Part], shape: tuple[int, ...]) -> Delta:
    """The change of a weight of this shape that changes the rows of each part as the part's does.

    It is exact. Where the scalings of parts differ, they are multiplied into `up` or the values,
    which are then in float64.

    Raises:
        UnsupportedError: the change of a part depends on the other rows, or has no factors.
        ShapeMismatchError: the rows do not fit the weight.
    """
    wholes = [placed(part.delta, part.runs, shape) for part in parts]
    if len(parts) == 1 and wholes[0] is parts[0].delta:
        return wholes[0]
    changes = [part.delta for part in parts]
    if any(isinstance(delta, DoRA) for delta in changes):
        return _fused_dora(parts, shape)
    if all(isinstance(delta, Diff) for delta in changes):
        return _fused_values(parts, shape)
    if all(delta.additive is not None for delta in changes):
        factors = [delta.factored() for delta in changes]
        loras = [lora for lora in factors if lora is not None]
        if len(loras) == len(factors):
            return _fused_factors(loras, [part.runs for part in parts], shape)
    kinds = " and ".join(dict.fromkeys(delta.kind for delta in changes))
    raise UnsupportedError(f"{kinds} of parts of a weight cannot be one change of the whole weight")


def divided(delta: Delta, ranges: Sequence[tuple[int, int]]) -> "tuple[Delta | None, ...]":
    """The changes of some rows each, which are parts of the weight.

    If `up` is block-diagonal, each part has its own components alone. A part whose rows are zero,
    while those of another one are not, has no change: None.

    Raises:
        UnsupportedError: the change of a row depends on the other rows.
    """
    parts = [delta.rows(begin, end) for begin, end in ranges]
    lora = delta.low_rank
    if lora is None or len(parts) < 2:
        return tuple(parts)
    columns = [_used_columns(lora.up, begin, end) for begin, end in ranges]
    used = [column for some in columns for column in some]
    if not used or len(set(used)) < len(used):
        return tuple(parts)
    return tuple(_of_columns(part, some) for part, some in zip(parts, columns, strict=True))


def has_different_scalings(parts: Sequence[Part]) -> bool:
    """Whether `fused` multiplies the scalings of these parts into tensors."""
    return len({part.delta.scaling.value for part in parts if part.delta.scaling}) > 1


def _used_columns(up: Source, begin: int, end: int) -> tuple[int, ...]:
    """The columns of a matrix that are not zero in these rows."""
    used = up.read_rows(begin, end).ne(0).any(dim=0)
    return tuple(used.nonzero().flatten().tolist())


def _of_columns(part: Delta, columns: tuple[int, ...]) -> Delta | None:
    """A change with these components of its LoRA, as all others are zero."""
    lora = part.low_rank
    assert lora is not None, part.kind
    if not columns:
        return part if part.additive is None else None
    if len(columns) == lora.rank:
        return part
    return part.with_low_rank(
        replace(
            lora,
            up=transposed(taken(transposed(lora.up), columns)),
            down=taken(lora.down, columns),
            scaling=_at_rank(lora.scaling, len(columns)),
        )
    )


def _at_rank(scaling: Scaling, rank: int) -> Scaling:
    """The same scaling, with the alpha that is divided by this rank."""
    if scaling.rule != "rank":
        return scaling
    alpha = Fraction(scaling.alpha) * rank / scaling.rank
    return replace(scaling, alpha=float(alpha), rank=rank)


def _fused_factors(
    loras: Sequence[LoRA], runs: Sequence[tuple[Run, ...]], shape: tuple[int, ...]
) -> LoRA:
    first = loras[0]
    scaling = _largest([lora.scaling for lora in loras])
    ups = _in_one_dtype(_folded([(lora.up, lora.scaling) for lora in loras], scaling))
    if all(same_bytes(lora.down, first.down) for lora in loras[1:]):
        place = _Place(tuple(runs), (0,) * len(loras), (shape[0], first.rank))
        return LoRA(joined(ups, place.shape, place), first.down, scaling, shape)
    begins = [sum(lora.rank for lora in loras[:i]) for i in range(len(loras) + 1)]
    place = _Place(tuple(runs), tuple(begins[:-1]), (shape[0], begins[-1]))
    downs = _in_one_dtype([lora.down for lora in loras])
    down = joined(downs, (begins[-1], *first.down.shape[1:]), _stacked)
    return LoRA(joined(ups, place.shape, place), down, _at_rank(scaling, begins[-1]), shape)


def _fused_values(parts: Sequence[Part], shape: tuple[int, ...]) -> Diff:
    diffs = [part.delta for part in parts if isinstance(part.delta, Diff)]
    scaling = _largest([diff.scaling for diff in diffs])
    values = _in_one_dtype(_folded([(diff.values, diff.scaling) for diff in diffs], scaling))
    return Diff(rows_of_parts(values, [part.runs for part in parts], shape), scaling)


def _fused_dora(parts: Sequence[Part], shape: tuple[int, ...]) -> DoRA:
    doras = [part.delta for part in parts if isinstance(part.delta, DoRA)]
    rows = sum(run.count for part in parts for run in part.runs)
    if len(doras) < len(parts) or rows < shape[0]:
        raise UnsupportedError(
            "DoRA of a part of a weight sets its norms, and the rows of the other parts would need "
            "magnitudes too, which depend on the base"
        )
    if any(dora.axis == "column" for dora in doras) and len(parts) > 1:
        raise UnsupportedError(
            "DoRA with a magnitude for each input sets norms over all rows of its weight, so the "
            "changes of parts are not one of the whole weight"
        )
    runs = [part.runs for part in parts]
    change = fused([Part(d.change, r) for d, r in zip(doras, runs, strict=True)], shape).additive
    assert change is not None
    if doras[0].axis == "column":
        return replace(doras[0], change=change)
    magnitudes = _in_one_dtype([dora.magnitude for dora in doras])
    return DoRA(change, rows_of_parts(magnitudes, runs, shape[:1]), "row")


def rows_of_parts(
    sources: Sequence[Source], runs: Sequence[tuple[Run, ...]], shape: tuple[int, ...]
) -> Source:
    """The rows of several tensors of one dtype as those of one, with zeros in all others."""
    return joined(sources, shape, _Place(tuple(runs), (0,) * len(sources), shape))


def _largest(scalings: Sequence[Scaling]) -> Scaling:
    """The scaling that the others are given as parts of; the first of equal ones."""
    return max(scalings, key=lambda scaling: abs(scaling.value))


def _folded(sources: Sequence[tuple[Source, Scaling]], scaling: Scaling) -> list[Source]:
    """The tensors with which this scaling does what their own ones do."""
    if all(own.value == scaling.value for _, own in sources):
        return [source for source, _ in sources]
    return [multiplied(cast(s, "F64"), own.value / scaling.value) for s, own in sources]


def _in_one_dtype(sources: Sequence[Source]) -> list[Source]:
    """The same numbers in a dtype that holds those of all."""
    dtypes = {source.dtype for source in sources}
    if len(dtypes) == 1:
        return list(sources)
    common = "F64" if "F64" in dtypes else "F32"
    return [cast(source, common) for source in sources]


@final
@dataclass(frozen=True)
class _Place:
    """Puts the rows of tensors into a larger one, each at its column: it can be pickled."""

    runs: tuple[tuple[Run, ...], ...]
    columns: tuple[int, ...]
    shape: tuple[int, ...]

    def __call__(self, *tensors: "Tensor") -> "Tensor":
        whole = tensors[0].new_zeros(self.shape)
        for tensor, runs, column in zip(tensors, self.runs, self.columns, strict=True):
            for begin, at, count in runs:
                rows = whole[at : at + count]
                if len(self.shape) == 2:
                    rows = rows[:, column : column + tensor.shape[1]]
                rows.copy_(tensor[begin : begin + count])
        return whole


def _stacked(*tensors: "Tensor") -> "Tensor":
    import torch

    return torch.cat(tensors)
