"""Compares an adapter with what was written of it, update by update.

The factors of a LoRA are compared, without forming its matrix.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, final

from loratools.adapter import Adapter
from loratools.deltas import Additive, Delta
from loratools.deltas.lora import LoRA
from loratools.errors import UnsupportedError, counted, shorten
from loratools.io.dtypes import to_torch
from loratools.io.source import Reshaped, Source, Stored
from loratools.io.values import same_bytes
from loratools.parts import Update
from loratools.running.share import Map, here, split
from loratools.showing.shown import Brief

if TYPE_CHECKING:
    from torch import Tensor

    from loratools.lowrank.factored import Factored

#: About how many elements are compared at a time, where a kind has no two factors.
_ELEMENTS = 2**22
#: The last bit of float64: scalings are computed in it, from alpha and back.
_EPS = 2.0**-52


@final
@dataclass(frozen=True, repr=False)
class Comparison(Brief):
    """The relative errors of updates, whole tensors and rows that were written, by target.

    An error is the Frobenius norm of the difference over that of the original; it is 0 where both
    are the same numbers.

    Attributes:
        errors: the relative errors by target.
        folded: the targets with another scaling than before, the rest of which is in the factors.
        padded: the targets with factors that were padded with zeros to a higher rank.
    """

    errors: Mapping[str, float]
    folded: tuple[str, ...]
    padded: tuple[str, ...]

    @property
    def worst(self) -> tuple[str, float] | None:
        """The target with the largest error, and this error; None if there are no errors."""
        target = max(self.errors, key=self.errors.__getitem__, default=None)
        return (target, self.errors[target]) if target and self.errors[target] else None

    @property
    def lines(self) -> Iterator[str]:
        """The comparison in words: what is stored in another way, and how large errors are."""
        for targets, what in (
            (self.folded, "scaling multiplied into the factors"),
            (self.padded, "factors padded with zeros to one rank"),
        ):
            if targets:
                yield f"{what}: {counted(len(targets), 'target')}"
        worst = self.worst
        if worst is None:
            yield "read back: every update is exact"
        else:
            count = sum(1 for error in self.errors.values() if error)
            yield (
                f"read back: {counted(len(self.errors) - count, 'update')} exact, {count} "
                f"rounded, with a relative error of at most {worst[1]:.2g} ({worst[0]})"
            )


class _Difference(NamedTuple):
    """The norms of a difference and of the original, and whether rounding explains it."""

    norm: float
    total: float
    is_rounding: bool


_NONE = _Difference(0.0, 0.0, is_rounding=True)


def compare(adapter: Adapter, written: Adapter, each: Map = map) -> Comparison:
    """Compare what an adapter does with what files do that were written of it.

    Raises:
        UnsupportedError: they do something else, by more than rounding to their dtypes explains.
    """
    for name in ("updates", "replaced", "rows"):
        one, other = getattr(adapter, name).keys(), getattr(written, name).keys()
        for target in one ^ other:
            raise _changed(adapter, target, "lost" if target in one else "added")
    # Nearly always all bytes are the same, which is seen without torch, and so without threads.
    looking, measuring = split(each, 1, 2)
    pairs = [(update, written.updates[target]) for target, update in adapter.updates.items()]
    kept = dict(zip(adapter.updates, here(looking)(_is_kept, pairs), strict=True))
    changed = [target for target, is_kept in kept.items() if not is_kept]
    found = dict.fromkeys(adapter.updates, _NONE)
    found |= zip(changed, measuring(partial(_of, adapter, written), changed), strict=True)
    for target, replacement in adapter.replaced.items():
        found[target] = _of_tensors(replacement.source, written.replaced[target].source)
    for target, rows in adapter.rows.items():
        if rows.indices != written.rows[target].indices:
            raise _changed(adapter, target, "given other rows")
        found[target] = _of_tensors(rows.rows, written.rows[target].rows)
    errors = {target: _error(adapter, target, difference) for target, difference in found.items()}
    loras = {
        target: (one, other)
        for target, update in adapter.updates.items()
        if (one := update.delta.low_rank) and (other := written.updates[target].delta.low_rank)
    }
    return Comparison(
        errors,
        folded=tuple(t for t, (a, b) in loras.items() if a.scaling.value != b.scaling.value),
        padded=tuple(t for t, (a, b) in loras.items() if a.rank != b.rank),
    )


def _error(adapter: Adapter, target: str, difference: _Difference) -> float:
    """The relative error of a target."""
    if not difference.norm:
        return 0.0
    error = difference.norm / difference.total if difference.total else math.inf
    if not difference.is_rounding:
        raise _changed(adapter, target, f"changed by {error:.2g} of its norm")
    return error


def _changed(adapter: Adapter, target: str, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{adapter.where}: {shorten(target)} would be {what}: what was written of it does not mean "
        f"the same",
        tensor=target,
    )


def _is_kept(pair: tuple[Update, Update]) -> bool:
    """Whether an update was written with the bytes and the scaling that it was read with."""
    one, other = pair
    before, after = one.delta, other.delta
    if _kind(one) != _kind(other) or len(before.sources) != len(after.sources):
        return False
    scalings = [delta.scaling.value if delta.scaling else None for delta in (before, after)]
    return scalings[0] == scalings[1] and all(map(_is_same, before.sources, after.sources))


def _of(adapter: Adapter, written: Adapter, target: str) -> _Difference:
    """How an update differs from what was written of it."""
    one, other = adapter.updates[target], written.updates[target]
    if _kind(one) != _kind(other):
        raise _changed(adapter, target, "an update of another kind")
    before, after = one.delta, other.delta
    loras = before.low_rank, after.low_rank
    if loras[0] is not None and loras[1] is not None:
        parts = [_of_loras(loras[0], loras[1])]
    elif len(before.sources) == len(after.sources) and _have_equal_scalings(before, after):
        parts = []
    elif before.additive is not None and after.additive is not None:
        return _of_matrices(before.additive, after.additive)
    else:
        raise _changed(adapter, target, "an update with another scaling")
    others = zip(_others(before, loras[0]), _others(after, loras[1]), strict=True)
    parts += [_of_tensors(a, b) for a, b in others]
    norm = math.hypot(*(part.norm for part in parts))
    is_rounding = all(part.is_rounding for part in parts)
    if norm and loras == (None, None):
        one_sum, other_sum = before.additive, after.additive
        if one_sum is not None and other_sum is not None:
            # The errors of several factors do not say that of their product.
            return _of_matrices(one_sum, other_sum)._replace(is_rounding=is_rounding)
    return _Difference(norm, math.hypot(*(part.total for part in parts)), is_rounding)


def _kind(update: Update) -> tuple[object, ...]:
    """What an update is, apart from its numbers."""
    delta = update.delta
    kind = "additive" if delta.additive is not None else delta.kind
    is_transposed = bool(update.fan_in_fan_out)
    return kind, delta.shape, delta.by_rows, update.is_embedding, is_transposed


def _others(delta: Delta, lora: LoRA | None) -> list[Source]:
    """The tensors of a change beside its factors."""
    factors = () if lora is None else lora.sources
    return [source for source in delta.sources if not any(source is f for f in factors)]


def _have_equal_scalings(one: Delta, other: Delta) -> bool:
    values = [delta.scaling.value if delta.scaling else 1.0 for delta in (one, other)]
    return math.isclose(*values, rel_tol=4 * _EPS)


def _of_loras(one: LoRA, other: LoRA) -> _Difference:
    """How `scaling * up @ down` differs, by the factors: O((m + n) R²) for an m × n matrix."""
    is_same = [_is_same(a, b) for a, b in zip(one.sources, other.sources, strict=True)]
    from loratools.lowrank.factored import product_norm

    rank = max(one.rank, other.rank)
    scale = abs(other.scaling.value)
    before, after = _scaled(one, rank), _scaled(other, rank)
    return _Difference(
        _product_error(before, after),
        product_norm(before),
        _is_rounding(before.down, after.down, None if is_same[0] else other.down)
        and _is_rounding(before.up, after.up, None if is_same[1] else other.up, scale),
    )


def _scaled(lora: LoRA, rank: int) -> "Factored":
    """The factors in float64, `up` with the scaling, padded with zeros to this rank."""
    import torch

    from loratools.lowrank.factored import Factored, wide

    up, down = wide(lora.up.read()) * lora.scaling.value, wide(lora.down.read())
    missing = rank - lora.rank
    pad = torch.nn.functional.pad
    return Factored(pad(up, (0, missing)), pad(down, (0, 0, 0, missing)))


def _product_error(one: "Factored", other: "Factored") -> float:
    """The norm of `one - other`, exactly 0 where their factors are the same numbers.

    With U + E and D + F in place of U and D, the difference is E (D + F) + U F.
    """
    import torch

    from loratools.lowrank.factored import Factored, product_norm

    error_up, error_down = other.up - one.up, other.down - one.down
    terms = [(error_up, other.down), (one.up, error_down)]
    kept = [term for term in terms if term[0].any() and term[1].any()]
    if not kept:
        return 0.0
    ups, downs = zip(*kept, strict=True)
    return product_norm(Factored(torch.cat(ups, dim=1), torch.cat(downs)))


def _of_matrices(one: Additive, other: Additive) -> _Difference:
    """How changes without common factors differ, by some rows at a time."""
    lost = total = 0.0
    is_rounding = True
    step = max(1, _ELEMENTS // max(1, math.prod(one.shape[1:])))
    for begin in range(0, one.shape[0], step):
        end = min(one.shape[0], begin + step)
        rows, others = one.dense_rows(begin, end), other.dense_rows(begin, end)
        is_rounding = is_rounding and _is_rounding(rows, others, other.sources[0])
        lost += (rows - others).square().sum().item()
        total += rows.square().sum().item()
    return _Difference(math.sqrt(lost), math.sqrt(total), is_rounding)


def _of_tensors(one: Source, other: Source) -> _Difference:
    """How a tensor differs from what was written of it."""
    if _is_same(one, other):
        return _NONE
    from loratools.lowrank.factored import wide

    before, after = wide(one.read()).flatten(), wide(other.read()).flatten()
    return _Difference(
        (before - after).norm().item(),
        before.norm().item(),
        _is_rounding(before, after, other),
    )


def _is_rounding(
    before: "Tensor", after: "Tensor", stored: Source | None, scale: float = 1.0
) -> bool:
    """Whether each number is off by no more than rounding to the dtype of `stored` explains.

    The numbers are those that are stored times `scale`. Without `stored`, they are those that were
    read, times a scaling that was computed.
    """
    import torch

    step, smallest = 4 * _EPS, 0.0
    if stored is not None:
        info = torch.finfo(to_torch(stored.dtype))
        # A half of the last bit; results in 16 bits may be rounded by way of float32.
        step += info.eps / 2 + 2.0**-24 * (info.eps > 2.0**-23)
        smallest = scale * info.smallest_normal * info.eps
    return bool(((before - after).abs() <= before.abs() * step + smallest).all())


def _is_same(one: Source, other: Source) -> bool:
    """Whether two tensors have the same bytes in the same order, in whatever shape."""
    one, other = _unshaped(one), _unshaped(other)
    if isinstance(one, Stored) and isinstance(other, Stored):
        if math.prod(one.shape) != math.prod(other.shape):
            return False
        one, other = one._replace(shape=()), other._replace(shape=())
    return same_bytes(one, other)


def _unshaped(source: Source) -> Source:
    return _unshaped(source.source) if isinstance(source, Reshaped) else source
