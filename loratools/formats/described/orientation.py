"""Which factors are stored transposed, where the user does not say it: their shapes show it.

The layers of a file are alike, so one answer is right for all of them. Factors fit where both have
the same rank. If they fit in several ways, as matrices of equal width do, the way with the lowest
ranks is taken: a low-rank factor is longer than it is wide.
"""

from collections.abc import Mapping, Sequence

from loratools.io.source import Source

Modules = Mapping[str, Mapping[str, Source]]

#: In the order of preference where the ranks are equal.
_WAYS: Sequence[frozenset[str]] = (
    frozenset(),
    frozenset({"up", "down"}),
    frozenset({"down"}),
    frozenset({"up"}),
)


def transposed_parts(modules: Modules) -> frozenset[str]:
    """The parts, of up and down, that all modules store transposed; none if nothing fits."""
    pairs = [(parts["up"].shape, parts["down"].shape) for parts in modules.values() if _pair(parts)]
    if not pairs or any(len(up) != 2 or len(down) != 2 for up, down in pairs):
        return frozenset()
    ranks = {way: [_rank(*pair, way) for pair in pairs] for way in _WAYS}
    totals = {way: sum(filter(None, found)) for way, found in ranks.items() if None not in found}
    return min(totals, key=totals.__getitem__, default=frozenset())


def _pair(parts: Mapping[str, Source]) -> bool:
    return "up" in parts and "down" in parts


def _rank(up: Sequence[int], down: Sequence[int], way: frozenset[str]) -> int | None:
    """The rank of both factors, stored in this way; None if they do not fit."""
    above = up[0] if "up" in way else up[1]
    below = down[1] if "down" in way else down[0]
    return above if above == below else None
