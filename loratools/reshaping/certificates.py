"""Certificates of truncations by target, summed over all targets or over groups of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from loratools.names.grouping import pattern_of
from loratools.showing.parts import KEPT, LOST, TARGETS, Column, Part, Table, numbers, percentage
from loratools.showing.shown import Shown

if TYPE_CHECKING:
    from loratools.lowrank.truncation import Truncation


@final
@dataclass(frozen=True, repr=False)
class Certificates(Shown):
    """The ranks of updates before their truncation, and the certificates, by target.

    `gap` is the largest additional share of all energy that another choice of ranks within the same
    budget could keep.
    """

    before: Mapping[str, int]
    truncations: "Mapping[str, Truncation]"
    gap: float = 0.0

    @property
    def total(self) -> "Truncation":
        """The certificate of all targets together."""
        from loratools.lowrank.truncation import together

        return together(self.truncations.values())

    def groups(self) -> "dict[str, Certificates]":
        """Certificates of targets whose names differ only in numbers, by their common pattern."""
        members: dict[str, list[str]] = {}
        for target in self.truncations:
            members.setdefault(pattern_of(target), []).append(target)
        return {pattern: self.only(*targets) for pattern, targets in members.items()}

    def only(self, *targets: str) -> "Certificates":
        """The certificates of some targets only."""
        return Certificates(
            {target: self.before[target] for target in targets},
            {target: self.truncations[target] for target in targets},
        )

    @property
    def ranks(self) -> tuple[int, int]:
        """The smallest and the largest rank that any target keeps."""
        ranks = [truncation.rank for truncation in self.truncations.values()]
        return min(ranks), max(ranks)

    def shown(self, *, verbose: bool = False) -> Iterator[Part]:
        """A table by group of targets, or by target, and what was kept of all together."""
        if not self.truncations:
            return
        single = {target: self.only(target) for target in self.truncations} if verbose else None
        yield _table(single or self.groups(), by_target=verbose)
        yield self.total.words
        if self.gap:
            yield f"another choice of ranks could keep at most {self.gap:.1e} more"

    def to_json(self) -> dict[str, Any]:
        """A total (None if nothing was truncated), the gap, and a row for each target."""
        rows = [
            {"target": target, "rank_before": self.before[target], **_json(truncation)}
            for target, truncation in self.truncations.items()
        ]
        total = _json(self.total) if rows else None
        return {"total": total, "budget_gap": self.gap, "targets": rows}


def _json(truncation: "Truncation") -> dict[str, Any]:
    return {
        "rank": truncation.rank,
        "norm": truncation.total**0.5,
        "energy": truncation.energy,
        "relative_error": truncation.error,
    }


def _table(rows: Mapping[str, Certificates], *, by_target: bool) -> Table:
    totals = [row.total for row in rows.values()]
    counts = numbers("n", (str(len(row.truncations)) for row in rows.values()), TARGETS)
    return Table(
        [
            Column("targets", [name.removesuffix(".weight") for name in rows]),
            *([] if by_target else [counts]),
            numbers("rank", map(_ranks, rows.values())),
            numbers("energy %", (percentage(t.energy) for t in totals), KEPT),
            numbers("rel. error", (f"{t.error:.3g}" for t in totals), LOST),
        ]
    )


def _ranks(row: Certificates) -> str:
    """Ranks before and after, as `8 → 4`, with ranges where targets differ."""
    before = sorted(row.before.values())
    return f"{_range(before[0], before[-1])} → {_range(*row.ranks)}"


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}–{most}"
