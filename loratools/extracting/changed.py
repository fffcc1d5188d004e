"""Finds the tensors that differ between two models, and measures by how much."""

from collections.abc import Callable, Sequence
from functools import partial

from loratools.extracting.difference import Difference, Norms
from loratools.extracting.pairing import Pair
from loratools.io.values import same_bytes
from loratools.running.share import Map

#: A callback for progress, called with the number of bytes read; if it raises, reading stops.
Tick = Callable[[int], None]


def differing(pairs: Sequence[Pair], each: Map, tick: Tick) -> tuple[Pair, ...]:
    """The pairs whose tensors differ, by more than rounding from one's dtype to the other's."""
    own = _own(pairs)
    found = dict(zip(own, each(partial(_differs, tick), own.values()), strict=True))
    return tuple(pair for pair in pairs if found[pair.twin or pair.target])


def measure(pairs: Sequence[Pair], each: Map, tick: Tick) -> dict[str, Norms]:
    """Measure the norms of the differences between paired tensors, by target.

    Raises:
        NonFiniteError: a tensor has a NaN or an infinity.
    """
    own = _own(pairs)
    found = dict(zip(own, each(partial(_norms, tick), own.values()), strict=True))
    return {pair.target: found[pair.twin or pair.target] for pair in pairs}


def _own(pairs: Sequence[Pair]) -> dict[str, Pair]:
    """One pair for each tensor that twins share, the largest first.

    A large tensor that is started last would keep one thread busy while all others wait.
    """
    largest = sorted(pairs, key=lambda pair: -pair.after.nbytes)
    return {pair.twin or pair.target: pair for pair in largest}


def _differs(tick: Tick, pair: Pair) -> bool:
    if pair.is_float:
        is_same = Difference(pair.after, pair.before).is_zero()
    else:
        is_same = same_bytes(pair.after, pair.before)
    pair.forget()
    tick(pair.after.nbytes if is_same else 0)
    return not is_same


def _norms(tick: Tick, pair: Pair) -> Norms:
    norms = Norms(0.0, 0.0)  # of codes or indices, which have no norm
    if pair.is_float:
        norms = Difference(pair.after, pair.before, partial(tick, 0)).norms()
        pair.forget()
    tick(pair.after.nbytes)
    return norms
