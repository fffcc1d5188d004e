"""`rescale` as a function: reads an adapter, rescales it, and writes it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from loratools.files.opening import open_adapter
from loratools.files.place import local_paths
from loratools.files.writing import Written, fitted, write_reported
from loratools.io.collector import collector_paused
from loratools.names.grouping import pattern_of
from loratools.reshaping.based import additive_all
from loratools.reshaping.rescaled import Rescaled, Rescaling, rescaled
from loratools.reshaping.rounding_error import rounding_error, rounding_note
from loratools.running.parallel import threads

if TYPE_CHECKING:
    from loratools.lowrank.ranks import RankRule


@final
@dataclass(frozen=True)
class RescaleReport:
    """The report of a rescaling; `written` is None after a dry run.

    `strengths` has the factor of each target's update: infinite if an alpha of 0 was changed.
    `rounding` is the relative error of storing new factors in 16 bits; None if factors are
    unchanged, or stored in more bits.
    """

    adapter: str
    strengths: Mapping[str, float]
    notes: tuple[str, ...]
    rounding: float | None
    written: Written | None

    def groups(self) -> dict[str, tuple[float, ...]]:
        """The strengths of targets whose names differ only in numbers, by their common pattern."""
        groups: dict[str, list[float]] = {}
        for target, strength in self.strengths.items():
            groups.setdefault(pattern_of(target), []).append(strength)
        return {pattern: tuple(strengths) for pattern, strengths in groups.items()}

    def to_json(self) -> dict[str, Any]:
        """The report as the documented object that `rescale --json` prints."""
        return {
            "adapter": self.adapter,
            "output": self.written.path if self.written else None,
            "bytes": self.written.nbytes if self.written else None,
            "strengths": {t: s if math.isfinite(s) else None for t, s in self.strengths.items()},
            "rounding": self.rounding,
            "notes": list(self.notes),
        }


@collector_paused()
def rescale(
    adapter: str | Path,
    *,
    output: str | Path | None,
    rescaling: Rescaling,
    base: str | Path | None = None,
    rule: "RankRule | None" = None,
    size: int | None = None,
    overwrite: bool = False,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    approve: Callable[[RescaleReport], object] | None = None,
) -> RescaleReport:
    """Write the adapter with other strengths, or with the same strengths stored in another way.

    Updates that depend on the weight they change, as DoRA does, cannot get another strength. With a
    `base` they are first made additive, at ranks chosen by `rule` or by a `size` in bytes.
    Without an `output` nothing is written.
    `approve` is called with the report before the output gets its name, or at the end of a dry run.
    If it raises, no output is left.

    Raises:
        LoratoolsError: see `loratools.errors`; no output is left then, and no input was changed.
    """
    opened = open_adapter(
        adapter, config=config, allow_pickle=allow_pickle, dialect_options=dialect_options
    )
    with threads(None) as each:

        def make(rule: "RankRule | None") -> Rescaled:
            (additive,), lost = additive_all([opened], base, rule, each)
            found = rescaled(additive, rescaling)
            return replace(found, notes=(*lost, *found.notes))

        found = make(rule) if size is None else fitted(make, rule, opened, size)
        rounding = rounding_error(found.adapter, each)
        said = tuple(note.message for note in opened.remarks)
        notes = (*said, *found.notes, *rounding_note(found.adapter, rounding))
        return write_reported(
            RescaleReport(opened.where, found.strengths, notes, rounding, written=None),
            found.adapter,
            output,
            inputs=local_paths(adapter, config, base),
            overwrite=overwrite,
            each=each,
            approve=approve,
        )
