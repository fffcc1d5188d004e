"""`rescale` as a function: reads an adapter, rescales it, and writes it."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, final, overload

from loratools.adapter import Adapter
from loratools.arguments import checked
from loratools.errors import counted, escaped, shorten
from loratools.files.opening import AdapterLike, Reading, opened_adapter
from loratools.files.writing import Written, fitted, write_reported
from loratools.io.collector import collector_paused
from loratools.io.sizes import size_in_bytes
from loratools.keywords import with_keywords
from loratools.lowrank.goals import Ranks, rule_of
from loratools.names.grouping import pattern_of
from loratools.reshaping.based import additive_all
from loratools.reshaping.rescaled import Rescaled, Rescaling, rescaled
from loratools.reshaping.rounding_error import has_rounded, rounding_error, rounding_note
from loratools.reshaping.written import written_parts
from loratools.running.parallel import threads
from loratools.running.progress import Progress, shows_progress
from loratools.showing.parts import TARGETS, Column, Part, Table, numbers
from loratools.showing.shown import Shown
from loratools.traps import repaired

if TYPE_CHECKING:
    from loratools.lowrank.ranks import RankRule
    from loratools.traps import Change


@final
@dataclass(frozen=True, repr=False)
class RescaleReport(Shown):
    """The report of a rescaling.

    Attributes:
        adapter: the path or the name of the adapter.
        strengths: the factor of each target's update; infinite if an alpha of 0 was changed.
        notes: remarks for the user.
        rounding: the relative error of storing new factors in 16 bits; None if factors are
            unchanged, or stored in more bits.
        written: what was written; None if nothing was.
        repairs: what was changed to repair traps.
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

    def __repr__(self) -> str:
        """How many updates were changed, by which factors, and where they were written."""
        changed = tuple(strength for strength in self.strengths.values() if strength != 1)
        said = f"{counted(len(changed), 'update')} {_times(changed)}" if changed else "unchanged"
        written = f"; written: {shorten(self.written.path)}" if self.written else ""
        return f"<RescaleReport: {escaped(said + written)}>"

    def shown(self, *, verbose: bool = False) -> Iterator[Part]:
        """What was repaired, the new strengths, and what was written."""
        if self.repairs:
            yield _repairs(self.repairs)
        rows = {t: (s,) for t, s in self.strengths.items()} if verbose else self.groups()
        yield Table(
            [
                Column("targets", [name.removesuffix(".weight") for name in rows]),
                numbers("n", (str(len(strengths)) for strengths in rows.values()), TARGETS),
                numbers("update", map(_times, rows.values()), "factor of its strength"),
            ]
        )
        yield from written_parts(self.written, self.notes)

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


def _repairs(repairs: "tuple[Change, ...]") -> Table:
    """A row for each change, and one for all of those that differ in the target alone."""
    rows = Counter((change.trap, change.before, change.after) for change in repairs)
    return Table(
        [
            Column("repaired", [trap for trap, _, _ in rows]),
            numbers("n", map(str, rows.values()), "how many times"),
            Column("before", [before for _, before, _ in rows]),
            Column("after", [after for _, _, after in rows]),
        ]
    )


def _times(strengths: tuple[float, ...]) -> str:
    least, most = min(strengths), max(strengths)
    if least == most:
        return "unchanged" if least == 1 else f"× {least:g}"
    return f"× {least:g} to {most:g}"


class _Arguments(Ranks, Reading, total=False):
    strength: float | None
    where: Sequence[tuple[str, float]] | None
    block_weights: str | None
    alpha: float | None
    fold: bool | None
    rescaling: Rescaling | None
    base: str | Path | None
    variant: str | None
    overwrite: bool
    repair: Sequence[str]
    progress: Progress
    approve: Callable[[RescaleReport], object] | None


@overload
def rescale(
    adapter: AdapterLike, *, output: None = None, **arguments: Unpack[_Arguments]
) -> Adapter[RescaleReport]: ...
@overload
def rescale(
    adapter: AdapterLike, *, output: str | Path, **arguments: Unpack[_Arguments]
) -> RescaleReport: ...
@overload
def rescale(
    adapter: AdapterLike, *, output: str | Path | None, **arguments: Unpack[_Arguments]
) -> Adapter[RescaleReport] | RescaleReport: ...
@shows_progress("targets")
@collector_paused()
@checked
def rescale(
    adapter: AdapterLike,
    *,
    output: str | Path | None = None,
    strength: float | None = None,
    where: Sequence[tuple[str, float]] | None = None,
    block_weights: str | None = None,
    alpha: float | None = None,
    fold: bool | None = None,
    rescaling: Rescaling | None = None,
    base: str | Path | None = None,
    variant: str | None = None,
    rank: int | None = None,
    energy: float | None = None,
    error: float | None = None,
    size: int | str | None = None,
    rule: "RankRule | None" = None,
    overwrite: bool = False,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    repair: Sequence[str] = (),
    progress: Progress = None,
    approve: Callable[[RescaleReport], object] | None = None,
) -> Adapter[RescaleReport] | RescaleReport:
    """Make the adapter stronger or weaker, or store the same strengths in another way.

    Strengths go into alpha, where they are exact, and are in comparison with the adapter as it was.

    Args:
        adapter: a path, a name on the Hub (`hf://owner/name`), or an opened adapter.
        output: where the adapter is written; None returns it instead, and writes nothing.
        strength: multiply every update by this; 1 by default.
        where: multiply the strength of targets that match by F, for each pair of a glob and F:
            `[("*.attn.*", 0.5)]`; of several that match, the last counts.
        block_weights: weights of the blocks of an image model, as a text: a list of numbers, a
            preset, or blocks by name (`OUTD`, `IN04=0.5`).
        alpha: set the alpha of every update, which changes its strength: alpha / rank.
        fold: multiply the scaling into the factors, so that alpha = rank.
        rescaling: the choices above and more, as one object.
        base: the base model. With it, DoRA and other updates that depend on the weights of the base
            become LoRA for this base, at the ranks that you choose.
        variant: read the weights of a model from its files `model.NAME.safetensors`, such as
            `"fp16"`; `"none"`: from those without a name.
        rank: this rank for every target.
        energy: the least ranks that keep this share of the energy of each update (the sum of its
            squared singular values), above 0 and at most 1: 0.95 keeps 95%.
        error: the least ranks that lose at most this share of the norm of each update, from 0 to
            below 1.
        size: the best ranks for a file of at most this size: a number of bytes, or a text such as
            `"64MB"`.
        rule: a rule for the ranks with more choices, instead of `rank`, `energy` and `error`. The
            rule of the scaling, such as `"rslora"`, is a field of `rescaling`.
        overwrite: replace an output that exists.
        config: the `adapter_config.json` of an adapter that has none beside it.
        allow_pickle: read PyTorch's `.bin`, `.pt` and `.pth` files too, without running code that
            is in them.
        dialect_options: options of the adapter's format, by name: `{"out_proj": "once"}`.
        repair: the names of traps, or `all`: what is wrong with the adapter is repaired first.
        progress: called with the work that is done, in targets, and the number of all targets; True
            shows a bar on stderr. What it raises stops the verb.
        approve: called with the report before the output gets its name, or at the end where nothing
            is written; if it raises, no output is left.

    Example:
        >>> import loratools
        >>> half = loratools.rescale("fixtures/adapters/plain", strength=0.5)
        >>> half["layers.0.self_attn.q_proj"]
        <model.layers.0.self_attn.q_proj.weight: LoRA, 64 × 64, rank 8, scaling 1>

    Raises:
        LoratoolsError: see `loratools.errors`; no output is left then, and no input was changed.
    """
    limit = size_in_bytes(size)
    opened = opened_adapter(
        adapter, config=config, allow_pickle=allow_pickle, dialect_options=dialect_options
    )
    rescaling = with_keywords(
        rescaling or Rescaling(),
        strength=strength,
        where=where,
        block_weights=block_weights,
        alpha=alpha,
        fold=fold,
    )
    rule = rule_of(rule, rank=rank, energy=energy, error=error)
    sound, repairs = repaired(opened, repair) if repair else (opened, ())
    with threads(None, progress, len(sound.updates)) as each:
        basing, rest = each.split(100 if base else 0, 5)

        def make(rule: "RankRule | None") -> Rescaled:
            (additive,), lost = additive_all([sound], base, rule, basing, variant)
            found = rescaled(additive, rescaling)
            return replace(found, notes=(*lost, *found.notes))

        found = make(rule) if limit is None else fitted(make, rule, sound, limit)
        rounding, writing = rest.split(4 * has_rounded(found.adapter), 1)
        error = rounding_error(found.adapter, rounding)
        strengths = {t: s * _repair(opened, sound, t) for t, s in found.strengths.items()}
        cured = {change.trap for change in repairs}
        said = tuple(note.message for note in opened.remarks if note.trap not in cured)
        notes = (*said, *found.notes, *rounding_note(found.adapter, error))
        return write_reported(
            RescaleReport(opened.where, strengths, notes, error, None, repairs),
            found.adapter,
            output,
            inputs=(adapter, config, base),
            overwrite=overwrite,
            each=writing,
            approve=approve,
        )


def _repair(before: Adapter, after: Adapter, target: str) -> float:
    """The factor by which a repair strengthens an update; infinite if its scaling was 0."""
    old, new = before.updates[target].delta.scaling, after.updates[target].delta.scaling
    if old is None or new is None or old.value == new.value:
        return 1.0
    return new.value / old.value if old.value else math.inf
