"""Which tensors differ between two models, and by how much."""

from collections.abc import Callable, Sequence
from functools import partial

from loratools.io.dtypes import FLOATS
from loratools.io.source import same_bytes
from loratools.operations.difference import Difference, Norms
from loratools.operations.pairing import Pair
from loratools.operations.parallel import Map


def compare(
    pairs: Sequence[Pair], each: Map = map, tick: Callable[[int], None] = lambda _: None
) -> dict[str, Norms]:
    """How far tensors changed, of those that did, by target.

    `tick` is called with the bytes that were read; what it raises stops the comparison.

    Raises:
        NonFiniteError: a tensor has a NaN or an infinity.
    """
    # The largest first, so that no thread is left waiting.
    own = sorted((p for p in pairs if p.twin is None), key=lambda pair: -pair.after.info.nbytes)
    found = dict(zip((p.target for p in own), each(partial(_compare, tick), own), strict=True))
    return {
        pair.target: norms
        for pair in pairs
        if (norms := found[pair.twin or pair.target]) is not None
    }


def _compare(tick: Callable[[int], None], pair: Pair) -> Norms | None:
    tick(pair.after.info.nbytes)
    if not {pair.after.dtype, pair.before.dtype} <= set(FLOATS):
        # Codes and indices have no norm.
        return None if same_bytes(pair.after, pair.before) else Norms(0.0, 0.0)
    difference = Difference(pair.after, pair.before, partial(tick, 0))
    return None if difference.is_zero() else difference.norms()
