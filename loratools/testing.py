"""Hypothesis strategies for adapters, updates and tensors, to test plug-ins and programs.

Sizes and ranks start at 1, and all dtypes that loratools computes with occur. The values of a
tensor come from a seed, so Hypothesis can shrink its shape but not its values. Hypothesis is
imported only when a strategy is made.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from loratools.io.dtypes import FLOATS

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from loratools.adapter import Adapter
    from loratools.deltas import Delta
    from loratools.deltas.diff import Diff
    from loratools.deltas.dora import DoRA
    from loratools.deltas.kasa import KaSA
    from loratools.deltas.lora import LoRA, Scaling
    from loratools.deltas.rows import Rows
    from loratools.deltas.tucker import Tucker
    from loratools.io.source import Held

__all__ = [
    "adapters",
    "deltas",
    "diffs",
    "doras",
    "dtypes",
    "eighths",
    "exact_scalings",
    "kasas",
    "loras",
    "normals",
    "placements",
    "rows",
    "scalings",
    "shapes",
    "tuckers",
]

Shape = tuple[int, ...]
#: A strategy for tensors by key and shape: `normals`, `eighths`, or one of your own.
Tensors = Callable[[str, Shape], "SearchStrategy[Held]"]
#: A strategy for scalings by rank: `scalings` or `exact_scalings`.
Scalings = Callable[[int], "SearchStrategy[Scaling]"]


def dtypes() -> "SearchStrategy[str]":
    """The safetensors names of the float dtypes that loratools computes with."""
    from hypothesis import strategies as st

    return st.sampled_from(FLOATS)


def shapes(*, most: int = 7) -> "SearchStrategy[Shape]":
    """Shapes of weights: matrices, and convolutions with up to three kernel dimensions.

    Rows and columns are at most `most`.
    """
    from hypothesis import strategies as st

    def shape(rows: int, columns: int, kernel: list[int]) -> Shape:
        return rows, columns, *kernel

    sizes = st.integers(1, most)
    return st.builds(shape, sizes, sizes, st.lists(st.sampled_from((1, 3)), max_size=3))


def normals(key: str, shape: Shape, dtype: str | None = None) -> "SearchStrategy[Held]":
    """Tensors of standard normal values, in any dtype if none is given."""
    return _seeded(key, shape, dtype, lambda torch, random: torch.randn(shape, generator=random))


def eighths(key: str, shape: Shape, dtype: str | None = None) -> "SearchStrategy[Held]":
    """Tensors of multiples of 1/8 from -2 to 2, in any dtype if none is given.

    Sums of their products are exact in every order.
    """
    return _seeded(
        key,
        shape,
        dtype,
        lambda torch, random: torch.randint(-16, 17, shape, generator=random) / 8,
    )


def scalings(rank: int) -> "SearchStrategy[Scaling]":
    """Scalings for a rank: positive and negative ones, by all rules."""
    from hypothesis import strategies as st

    from loratools.deltas.lora import Scaling

    return st.builds(
        Scaling,
        alpha=st.floats(-32, 32).filter(lambda alpha: abs(alpha) >= 2**-8),
        rank=st.just(rank),
        rule=st.sampled_from(("rank", "sqrt_rank", "direct")),
        origin=st.just("config"),
        times=st.sampled_from((1, 2)),
    )


def exact_scalings(rank: int) -> "SearchStrategy[Scaling]":
    """Scalings whose value is a small multiple of 1/4, so that sums are exact."""
    from hypothesis import strategies as st

    from loratools.deltas.lora import Scaling

    alphas = st.integers(-16, 16).map(lambda number: number / 4)
    return st.builds(
        Scaling,
        alpha=alphas,
        rank=st.just(rank),
        rule=st.just("direct"),
        origin=st.just("config"),
    )


def loras(
    shape: Shape, *, tensors: Tensors = normals, scaling: Scalings = scalings
) -> "SearchStrategy[LoRA]":
    """LoRAs of rank 1 to 4 for a weight of this shape, even where the weight's rank is smaller."""
    from hypothesis import strategies as st

    return st.integers(1, 4).flatmap(lambda rank: _lora(shape, rank, tensors, scaling))


def doras(
    shape: Shape, *, tensors: Tensors = normals, scaling: Scalings = scalings
) -> "SearchStrategy[DoRA]":
    """DoRAs of LoRAs for a weight of this shape: a magnitude for each output, or each input."""
    from hypothesis import strategies as st

    from loratools.deltas.dora import DoRA

    by_row, by_column = (
        st.builds(
            DoRA,
            change=loras(shape, tensors=tensors, scaling=scaling),
            magnitude=tensors("magnitude", (shape[number],)),
            axis=st.just(axis),
        )
        for number, axis in enumerate(("row", "column"))
    )
    return by_row | by_column


def tuckers(
    shape: Shape, *, tensors: Tensors = normals, scaling: Scalings = scalings
) -> "SearchStrategy[Tucker]":
    """LoCons with a Tucker core for a weight of this shape, with one or two different ranks."""
    from hypothesis import strategies as st

    from loratools.deltas.tucker import Tucker

    def of_ranks(ranks: tuple[int, int]) -> "SearchStrategy[Tucker]":
        return st.builds(
            Tucker,
            up=tensors("up", (shape[0], ranks[0])),
            core=tensors("core", (*ranks, *shape[2:])),
            down=tensors("down", (ranks[1], shape[1])),
            scaling=scaling(ranks[1]),
        )

    return st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(of_ranks)


def kasas(
    shape: Shape, *, tensors: Tensors = normals, scaling: Scalings = scalings
) -> "SearchStrategy[KaSA]":
    """KaSAs of rank 1 to 4 for a matrix of this shape."""
    from hypothesis import strategies as st

    from loratools.deltas.kasa import KaSA

    def of_rank(rank: int) -> "SearchStrategy[KaSA]":
        lora = _lora(shape, rank, tensors, scaling)
        return st.builds(KaSA, lora=lora, diagonal=tensors("diagonal", (rank,)))

    return st.integers(1, 4).flatmap(of_rank)


def diffs(
    shape: Shape, *, tensors: Tensors = normals, scaling: Scalings = scalings
) -> "SearchStrategy[Diff]":
    """Updates of a weight of this shape that are stored whole and not as factors."""
    from hypothesis import strategies as st

    from loratools.deltas.diff import Diff

    return st.builds(Diff, values=tensors("diff", shape), scaling=scaling(1))


def rows(shape: Shape, *, tensors: Tensors = normals) -> "SearchStrategy[Rows]":
    """Replacements of one to five different rows of a matrix, in any order."""
    from hypothesis import strategies as st

    from loratools.deltas.rows import Rows

    def of(indices: list[int]) -> "SearchStrategy[Rows]":
        values = tensors("rows", (len(indices), *shape[1:]))
        return st.builds(Rows, indices=st.just(tuple(indices)), values=values, shape=st.just(shape))

    indices = st.lists(st.integers(0, shape[0] - 1), min_size=1, max_size=5, unique=True)
    return indices.flatmap(of)


def deltas(
    shape: Shape, *, tensors: Tensors = normals, scaling: Scalings = scalings
) -> "SearchStrategy[Delta]":
    """Updates of all kinds that exist for a weight of this shape."""
    return _of_all_rows(shape, tensors, scaling) | placements(
        shape, tensors=tensors, scaling=scaling
    )


def placements(
    shape: Shape, *, tensors: Tensors = normals, scaling: Scalings = scalings
) -> "SearchStrategy[Delta]":
    """Updates of all kinds for some rows of a weight of this shape, or for all in another order."""
    from hypothesis import strategies as st

    from loratools.deltas.placed import Run, placed

    @st.composite
    def place(draw: st.DrawFn) -> "Delta":
        cuts = sorted(draw(st.sets(st.integers(1, shape[0]))) | {0, shape[0]})
        ranges = draw(st.permutations(list(pairwise(cuts))))
        runs: list[Run] = []
        rows = 0
        for begin, end in ranges[: draw(st.integers(1, len(ranges)))]:
            runs.append(Run(rows, begin, end - begin))
            rows += end - begin
        return placed(draw(_of_all_rows((rows, *shape[1:]), tensors, scaling)), tuple(runs), shape)

    return place()


def adapters(
    shapes: Mapping[str, Shape], *, tensors: Tensors = normals, scaling: Scalings = scalings
) -> "SearchStrategy[Adapter]":
    """Adapters with a LoRA or a DoRA for one or more of the named weights, in any order.

    `shapes` maps the names of weights to their shapes.
    """
    from hypothesis import strategies as st

    from loratools.adapter import Adapter
    from loratools.parts import Filed, Provenance, Update

    def of(names: list[str]) -> "SearchStrategy[Adapter]":
        updates = {
            name: st.builds(
                Update,
                delta=loras(shapes[name], tensors=tensors, scaling=scaling)
                | doras(shapes[name], tensors=tensors, scaling=scaling),
            )
            for name in names
        }
        return st.builds(
            Adapter,
            where=st.just("drawn"),
            updates=st.fixed_dictionaries(updates),
            replaced=st.just({}),
            rows=st.just({}),
            copies=st.just(()),
            inert=st.just({}),
            provenance=st.just(Provenance()),
            notes=st.just(()),
            companions=st.just(()),
            nbytes=st.just(0),
            filed=st.just(Filed("peft")),
        )

    return st.lists(st.sampled_from(list(shapes)), min_size=1, unique=True).flatmap(of)


def _of_all_rows(shape: Shape, tensors: Tensors, scaling: Scalings) -> "SearchStrategy[Delta]":
    from hypothesis import strategies as st

    kinds: list[SearchStrategy[Delta]] = [
        loras(shape, tensors=tensors, scaling=scaling),
        doras(shape, tensors=tensors, scaling=scaling),
        tuckers(shape, tensors=tensors, scaling=scaling),
        diffs(shape, tensors=tensors, scaling=scaling),
    ]
    if len(shape) == 2:
        kinds.append(kasas(shape, tensors=tensors, scaling=scaling))
        kinds.append(rows(shape, tensors=tensors))
    return st.one_of(kinds)


def _lora(shape: Shape, rank: int, tensors: Tensors, scaling: Scalings) -> "SearchStrategy[LoRA]":
    from hypothesis import strategies as st

    from loratools.deltas.lora import LoRA

    rows, columns = _as_matrix(shape)
    return st.builds(
        LoRA,
        up=tensors("up", (rows, rank)),
        down=tensors("down", (rank, columns)),
        scaling=scaling(rank),
        shape=st.just(shape),
    )


def _as_matrix(shape: Shape) -> tuple[int, int]:
    columns = 1
    for size in shape[1:]:
        columns *= size
    return shape[0], columns


def _seeded(
    key: str, shape: Shape, dtype: str | None, draw: Callable[..., object]
) -> "SearchStrategy[Held]":
    from hypothesis import strategies as st

    def held(seed: int, name: str) -> "Held":
        import torch

        from loratools.io.dtypes import to_torch
        from loratools.io.source import Held

        values = torch.as_tensor(draw(torch, torch.Generator().manual_seed(seed)))
        return Held(key, values.to(to_torch(name)), name)

    names = dtypes() if dtype is None else st.just(dtype)
    return st.builds(held, st.integers(0, 2**32 - 1), names)
