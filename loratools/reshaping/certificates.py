"""What truncations kept, as rows: a target each, or a group of targets each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from loratools.names.grouping import pattern_of

if TYPE_CHECKING:
    from loratools.lowrank.truncation import Truncation


@final
@dataclass(frozen=True)
class Certificates:
    """What every target had and kept; `before` are the ranks of what was approximated.

    `gap` is the share of all energy that another choice of ranks within the same budget might keep
    in addition.
    """

    before: Mapping[str, int]
    truncations: "Mapping[str, Truncation]"
    gap: float = 0.0

    @property
    def total(self) -> "Truncation":
        """Of all targets together."""
        from loratools.lowrank.truncation import together

        return together(self.truncations.values())

    def groups(self) -> "dict[str, Certificates]":
        """Targets whose names differ only in numbers, by the pattern of their names."""
        members: dict[str, list[str]] = {}
        for target in self.truncations:
            members.setdefault(pattern_of(target), []).append(target)
        return {pattern: self.only(*targets) for pattern, targets in members.items()}

    def only(self, *targets: str) -> "Certificates":
        """Those of some targets."""
        return Certificates(
            {target: self.before[target] for target in targets},
            {target: self.truncations[target] for target in targets},
        )

    @property
    def ranks(self) -> tuple[int, int]:
        """The smallest and the largest rank that is kept."""
        ranks = [truncation.rank for truncation in self.truncations.values()]
        return min(ranks), max(ranks)

    def to_json(self) -> dict[str, Any]:
        """The total, None where nothing was truncated, and a row for each target."""
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
