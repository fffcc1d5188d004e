"""`rescale` as a function: reads an adapter, rescales it, and writes it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from loratools.adapter import Adapter
from loratools.files.opening import open_adapter
from loratools.files.place import local_paths
from loratools.files.writing import Written, fitted, write_reported
from loratools.io.collector import collector_paused
from loratools.names.grouping import pattern_of
from loratools.reshaping.based import additive_all
from loratools.reshaping.rescaled import Rescaled, Rescaling, rescaled
from loratools.reshaping.rounding_error import rounding_error, rounding_note
from loratools.running.parallel import threads
from loratools.traps import repaired

if TYPE_CHECKING:
    from loratools.lowrank.ranks import RankRule
    from loratools.traps import Change


@final
@dataclass(frozen=True)
class RescaleReport:
    """The report of a rescaling; `written` is None after a dry run.

    `strengths` has the factor of each target's update: infinite if an alpha of 0 was changed.
    `rounding` is the relative error of storing new factors in 16 bits; None if factors are
    unchanged, or stored in more bits. `repairs` says what was changed to repair traps.
    """

    adapter: str
    strengths: Mapping[str, float]
    notes: tuple[str, ...]
    rounding: float | None
    written: Written | None
    repairs: "tuple[Change, ...]" = ()

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
            "repairs": [change._asdict() for change in self.repairs],
            "notes": list(self.notes),
        }


@collector_paused()
def rescale(
    adapter: str | Path,
    *,
    output: str | Path | None,
    rescaling: Rescaling,
    base: str | Path | None = None,
    variant: str | None = None,
    rule: "RankRule | None" = None,
    size: int | None = None,
    overwrite: bool = False,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    repair: Sequence[str] = (),
    approve: Callable[[RescaleReport], object] | None = None,
) -> RescaleReport:
    """Write the adapter with other strengths, or with the same strengths stored in another way.

    Updates that depend on the weight they change, as DoRA does, cannot get another strength. With a
    `base` they are first made additive, at ranks chosen by `rule` or by a `size` in bytes;
    `variant` is that of the base's weights, where its folder has several.
    With `repair`, the names of traps or `all`, these are repaired first. Strengths are in
    comparison with the adapter as it was before. Without an `output` nothing is written.
    `approve` is called with the report before the output gets its name, or at the end of a dry run.
    If it raises, no output is left.

    Raises:
        LoratoolsError: see `loratools.errors`; no output is left then, and no input was changed.
    """
    opened = open_adapter(
        adapter, config=config, allow_pickle=allow_pickle, dialect_options=dialect_options
    )
    sound, repairs = repaired(opened, repair) if repair else (opened, ())
    with threads(None) as each:

        def make(rule: "RankRule | None") -> Rescaled:
            (additive,), lost = additive_all([sound], base, rule, each, variant)
            found = rescaled(additive, rescaling)
            return replace(found, notes=(*lost, *found.notes))

        found = make(rule) if size is None else fitted(make, rule, sound, size)
        rounding = rounding_error(found.adapter, each)
        strengths = {t: s * _repair(opened, sound, t) for t, s in found.strengths.items()}
        cured = {change.trap for change in repairs}
        said = tuple(note.message for note in opened.remarks if note.trap not in cured)
        notes = (*said, *found.notes, *rounding_note(found.adapter, rounding))
        return write_reported(
            RescaleReport(opened.where, strengths, notes, rounding, None, repairs),
            found.adapter,
            output,
            inputs=local_paths(adapter, config, base),
            overwrite=overwrite,
            each=each,
            approve=approve,
        )


def _repair(before: Adapter, after: Adapter, target: str) -> float:
    """The factor by which a repair strengthens an update; infinite if its scaling was 0."""
    old, new = before.updates[target].delta.scaling, after.updates[target].delta.scaling
    if old is None or new is None or old.value == new.value:
        return 1.0
    return new.value / old.value if old.value else math.inf
