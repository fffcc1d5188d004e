"""The tables of a description: groups of targets, spectra, and blocks of the model."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from loratools.describing.groups import TargetGroup
from loratools.showing.parts import TARGETS, Column, Table, numbers

if TYPE_CHECKING:
    from loratools.describing.energy import BlockEnergy
    from loratools.describing.spectrum import TargetSpectrum

#: A shorter name for where an alpha was found, so that rows fit into a line.
_FROM = {"alpha_pattern": "regex"}
#: The most characters of a bar.
_BAR = 30


def group_table(rows: Iterable[TargetGroup], *, by_target: bool) -> Table:
    """A row for each group of equal updates, or for each update."""
    groups = [*rows]
    origins = [group.alpha_from or "" for group in groups]
    columns = [
        Column("targets", [_short(group.pattern) for group in groups]),
        numbers("n", (str(group.count) for group in groups), TARGETS),
        numbers("shape", ("×".join(map(str, group.shape)) for group in groups)),
        numbers("rank", (_maybe(group.rank) for group in groups)),
        numbers("alpha", (_maybe(group.alpha) for group in groups)),
        numbers("scaling", (_maybe(group.scaling) for group in groups), "factor of up · down"),
        Column("kind", [group.kind for group in groups]),
    ]
    if len({origin for origin in origins if origin}) > 1:
        cells = [_FROM.get(origin, origin) for origin in origins]
        columns.insert(5, Column("from", cells, legend="where alpha was found"))
    return Table([columns[0], *columns[2:]] if by_target else columns)


def spectrum_table(spectra: "Sequence[TargetSpectrum]", *, by_target: bool) -> Table:
    """A row for each update, or with the means over groups of targets."""
    from loratools.describing.spectrum import mean_spectra

    rows = spectra if by_target else mean_spectra(spectra)
    columns = [
        Column("updates" if by_target else "means", [_short(row.target) for row in rows]),
        _values("‖ΔW‖", rows, "frobenius", "norm of the update"),
        _values("σ₁", rows, "spectral", "its largest singular value"),
        _values("stable", rows, "stable_rank", "‖ΔW‖² / σ₁²"),
        _values("eff.", rows, "effective_rank", "directions in use"),
        _values("half", rows, "half_energy", "share of ‖ΔW‖² in the larger half of them"),
    ]
    if any(row.relative is not None for row in rows):
        columns.append(numbers("‖ΔW‖/‖W‖", (_maybe(row.relative) for row in rows), _RELATIVE))
    return Table(columns)


#: The legend of a size that is relative to a base.
_RELATIVE = "relative to the weight's norm"


def block_table(blocks: "Sequence[BlockEnergy]") -> Table:
    """A row for each block; a number that is not finite is said to be so."""
    norms = ("not finite" if b.norm is None else f"{b.norm:.3g}" for b in blocks)
    shares = ("" if b.share is None else f"{100 * b.share:.1f}" for b in blocks)
    relative = [_maybe(block.relative) for block in blocks]
    bars = ["▪" * round(_BAR * (block.share or 0)) for block in blocks]
    return Table(
        [
            Column("block", [block.block for block in blocks]),
            numbers("targets", (str(block.targets) for block in blocks)),
            numbers("‖ΔW‖", norms, "norm of the block's updates"),
            numbers("share %", shares, "of the whole ‖ΔW‖²"),
            *([numbers("‖ΔW‖/‖W‖", relative, _RELATIVE)] if any(relative) else []),
            Column("", bars, is_bar=True),
        ]
    )


def row_table(rows: Sequence[tuple[str, ...]]) -> Table:
    """A row for each of several things: the six cells of each."""
    names, kinds, ranks, sizes, bases, verdicts = zip(*rows, strict=True)
    return Table(
        [
            Column("name", names),
            Column("kind", kinds),
            numbers("rank", ranks),
            numbers("size", sizes),
            Column("base", bases),
            Column("verdict", verdicts),
        ]
    )


def _short(target: str) -> str:
    return target.removesuffix(".weight")


def _maybe(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _values(heading: str, rows: "Sequence[TargetSpectrum]", name: str, legend: str) -> Column:
    found = (row.spectrum for row in rows)
    cells = ("not finite" if s is None else f"{getattr(s, name):.3g}" for s in found)
    return numbers(heading, cells, legend)
