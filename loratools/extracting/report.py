"""The report of an extraction: what it kept and what it lost, tensor by tensor."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from loratools.errors import counted
from loratools.extracting.plan import ExtractPlan
from loratools.names.both_ends import MERGED_TWICE
from loratools.showing.parts import KEPT, LOST, Column, Part, Table, aside, human_size, numbers
from loratools.showing.shown import Shown
from loratools.typed import one_of

if TYPE_CHECKING:
    from loratools.extracting.check import Check
    from loratools.lowrank.truncation import Truncation


@final
@dataclass(frozen=True, repr=False)
class ExtractReport(Shown):
    """The report of an extraction or, after a dry run, of its plan (`truncations` is then empty).

    Attributes:
        plan: the plan that was carried out.
        truncations: the certificate of each target: how much energy its factors keep, before they
            are rounded to the dtype they are stored in.
        gap: the largest additional share of energy that other ranks within the same budget could
            keep.
        output: the path of the adapter; None after a dry run.
        nbytes: the size in bytes of the file of tensors.
        reused: the number of targets whose factors an earlier run had finished.
        damaged: the number of finished parts that were found damaged, and computed again.
        check: the result of merging the adapter back; None unless it was asked for.
    """

    plan: ExtractPlan
    truncations: "Mapping[str, Truncation]"
    gap: float = 0.0
    output: str | None = None
    nbytes: int | None = None
    reused: int = 0
    damaged: int = 0
    check: "Check | None" = None

    @property
    def total(self) -> "Truncation":
        """The certificate of all changes together.

        Tensors that are stored whole lose nothing, and changes that are left out are lost.
        """
        from loratools.lowrank.truncation import Truncation

        changes = self.plan.changes
        lost = [truncation.lost for truncation in self.truncations.values()]
        lost += [left.norms.change for left in self.plan.left_out.values() if left.norms]
        return Truncation(
            rank=sum(truncation.rank for truncation in self.truncations.values()),
            total=math.fsum(norms.change for norms in changes.values()),
            lost=math.fsum(lost),
        )

    def worst(self, count: int = 3) -> tuple[tuple[str, float], ...]:
        """The tensors with the largest shares of the lost energy, and these shares."""
        lost = {target: truncation.lost for target, truncation in self.truncations.items()}
        lost |= {t: left.norms.change for t, left in self.plan.left_out.items() if left.norms}
        total = math.fsum(lost.values())
        shares = [(target, each / total) for target, each in lost.items() if each and total]
        return tuple(sorted(shares, key=lambda item: -item[1])[:count])

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for people on names, sizes, tied tensors, changes left out and damaged parts."""
        grown = [t for t, replacement in self.plan.whole.items() if not replacement.is_trained]
        notes = [*self.plan.pairing.notes]
        notes += [
            f"{target}: has another number of rows; resize the base's embeddings before loading"
            for target in grown
        ]
        notes += self._tied_notes()
        notes += [
            f"packed in {format_}, the same in both models: {counted(count, 'weight')}"
            for format_, (count, _) in self.plan.pairing.packed[1].counts.items()
        ]
        reasons: dict[str, list[str]] = {}
        for target, left in self.plan.left_out.items():
            reasons.setdefault(left.reason, []).append(target)
        for reason, targets in reasons.items():
            more = f" and {len(targets) - 1} more" if len(targets) > 1 else ""
            notes.append(f"left out: {targets[0]}{more} ({reason})")
        if self.damaged:
            notes.append(
                f"{counted(self.damaged, 'part')} of the interrupted run had been damaged "
                f"on disk since, and were computed again; check the disk"
            )
        return tuple(notes)

    def _tied_notes(self) -> Iterator[str]:
        for target, planned in self.plan.factored.items():
            twin = planned.pair.twin
            if twin is not None and twin in self.plan.factored:
                yield (
                    f"{twin} and {target} are one tensor, and its update is stored for both ends: "
                    f"{MERGED_TWICE}; or store both whole, with {one_of('full', twin)}"
                )

    @property
    def lines(self) -> tuple[str, ...]:
        """The report in a few lines of words."""
        plan, total = self.plan, self.total
        stored = sum(truncation.rank > 0 for truncation in self.truncations.values())
        is_plan = bool(plan.factored) and not self.truncations
        found = f"{counted(stored, 'matrix', 'matrices')} of low rank"
        if is_plan:
            found = f"{counted(len(plan.factored), 'matrix', 'matrices')} to factor"
        lines = [
            f"{found}, {counted(len(plan.whole), 'tensor')} whole, "
            f"{counted(len(plan.left_out), 'change')} left out; "
            f"{counted(plan.unchanged, 'tensor')} unchanged"
        ]
        if is_plan:
            return tuple(lines)
        lines.append(
            f"energy kept: {total.energy:.6f}, relative error {total.error:.3g} "
            f"(before the factors are rounded)"
        )
        if worst := self.worst():
            shares = ", ".join(f"{target} {share:.1%}" for target, share in worst)
            lines.append(f"most of the loss: {shares}")
        if self.check is not None:
            lines.append(self.check.line)
        return tuple(lines)

    def shown(self, *, verbose: bool = False) -> Iterator[Part]:
        """The notes, a table of all targets where it is `verbose`, and the report in words."""
        yield from (aside("Note", note) for note in self.notes)
        if verbose and self.plan.factored:
            yield self._table()
        yield from self.lines
        if self.output is not None:
            yield f"written: {self.output} ({human_size(self.nbytes or 0)})"

    def _table(self) -> Table:
        rows = [self._row(target) for target in self.plan.factored]

        def cells(field: str, pattern: str) -> list[str]:
            return ["" if row[field] is None else pattern.format(row[field]) for row in rows]

        columns = [
            Column("target", [row["target"] for row in rows]),
            numbers("change", cells("relative", "{:.3g}"), "‖ΔW‖ / ‖W‖"),
            numbers("rank", cells("rank", "{}")),
            numbers("energy", cells("energy", "{:.6f}"), KEPT),
            numbers("rel. error", cells("relative_error", "{:.3g}"), LOST),
        ]
        return Table(columns if self.truncations else columns[:2])

    def to_json(self) -> dict[str, Any]:
        """The report as the documented object that `svd-extract --json` prints."""
        plan, total = self.plan, self.total
        is_known = bool(self.truncations) or not plan.factored
        return {
            "tuned": plan.pairing.tuned.where,
            "base": plan.pairing.base.where,
            "output": self.output,
            "bytes": self.nbytes,
            "unchanged": plan.unchanged,
            "targets": [self._row(target) for target in plan.factored],
            "whole": [
                {"target": target, "relative": self._relative(target)} for target in plan.whole
            ],
            "left_out": [
                {"target": target, "reason": left.reason, "relative": self._relative(target)}
                for target, left in plan.left_out.items()
            ],
            "total": {
                "norm": math.sqrt(total.total),
                "energy": total.energy if is_known else None,
                "relative_error": total.error if is_known else None,
                "budget_gap": self.gap,
            },
            "worst": [{"target": t, "share": share} for t, share in self.worst(10)],
            "check": self.check.to_json() if self.check else None,
            "notes": list(self.notes),
        }

    def _row(self, target: str) -> dict[str, Any]:
        planned, truncation = self.plan.factored[target], self.truncations.get(target)
        return {
            "target": target,
            "shape": list(planned.pair.after.shape),
            "embedding": planned.is_embedding,
            "relative": self._relative(target),
            "rank": truncation.rank if truncation else None,
            "energy": truncation.energy if truncation else None,
            "relative_error": truncation.error if truncation else None,
        }

    def _relative(self, target: str) -> float | None:
        norms = self.plan.changes.get(target)
        return norms.relative if norms and math.isfinite(norms.relative) else None
