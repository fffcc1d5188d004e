"""Certificates of truncations by target, summed over all targets or over groups of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from loratools.names.grouping import pattern_of

if TYPE_CHECKING:
    from loratools.lowrank.truncation import Truncation


@final
@dataclass(frozen=True)
class Certificates:
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
