"""Which factors are stored transposed, where the user does not say it: their shapes show it.

The layers of a file are alike, so one answer is right for all of them. Factors fit where both have
the same rank, and the shape of the weight if the file holds that too. If they fit in several ways,
as matrices of equal width do, the way with the lowest ranks is taken: a low-rank factor is longer
than it is wide.
"""

from collections.abc import Iterable, Mapping, Sequence

from loratools.io.source import Source

Modules = Mapping[str, Mapping[str, Source]]
_Shape = Sequence[int]

#: In the order of preference where the ranks are equal.
_WAYS: Sequence[frozenset[str]] = (
    frozenset(),
    frozenset({"up", "down"}),
    frozenset({"down"}),
    frozenset({"up"}),
)


def transposed_parts(modules: Modules, weights: Mapping[str, Source]) -> frozenset[str]:
    """The parts, of up and down, that all modules store transposed; none if nothing fits.

    `weights` are those weights of modules that are in the file. A convolution's factors have more
    dimensions, and are not transposed.
    """
    layers = [
        (parts["up"].shape, parts["down"].shape, weights[t].shape if t in weights else None)
        for t, parts in modules.items()
        if all(part in parts and len(parts[part].shape) == 2 for part in ("up", "down"))
    ]
    ranks = {way: _ranks(layers, way) for way in _WAYS if layers}
    totals = {way: sum(found) for way, found in ranks.items() if found is not None}
    return min(totals, key=totals.__getitem__, default=frozenset())


def _ranks(
    layers: Iterable[tuple[_Shape, _Shape, _Shape | None]], way: frozenset[str]
) -> list[int] | None:
    """The ranks of all layers, stored in this way; None if one does not fit."""
    ranks = []
    for up, down, weight in layers:
        rows, above = up[::-1] if "up" in way else up
        below, columns = down[::-1] if "down" in way else down
        if above != below or (weight is not None and [*weight] != [rows, columns]):
            return None
        ranks.append(above)
    return ranks
