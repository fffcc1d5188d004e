"""`resize` as a function: reads an adapter, changes its ranks, and writes it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, final, overload

from loratools.adapter import Adapter
from loratools.arguments import checked
from loratools.files.opening import AdapterLike, Reading, opened_adapter
from loratools.files.writing import Written, fitted, write_reported
from loratools.io.sizes import size_in_bytes
from loratools.lowrank.goals import Ranks, rule_of
from loratools.reshaping.certificates import Certificates
from loratools.reshaping.resized import resized
from loratools.reshaping.rounding_error import has_rounded, rounding_error, rounding_note
from loratools.reshaping.written import written_parts
from loratools.running.parallel import import_torch, threads
from loratools.running.progress import Progress, shows_progress
from loratools.showing.parts import Part
from loratools.showing.shown import Shown

if TYPE_CHECKING:
    from loratools.lowrank.ranks import RankRule


@final
@dataclass(frozen=True, repr=False)
class ResizeReport(Shown):
    """The report of a change of ranks.

    Attributes:
        adapter: the path or the name of the adapter.
        certificates: how much the truncation of each target lost.
        notes: remarks for the user.
        rounding: the relative error that storing the factors in 16 bits adds to the certificates;
            None if they are stored in more bits.
        written: what was written; None if nothing was.
    """

    adapter: str
    certificates: Certificates
    notes: tuple[str, ...]
    rounding: float | None
    written: Written | None

    def shown(self, *, verbose: bool = False) -> Iterator[Part]:
        """The certificates, by group of targets or by target, and what was written."""
        yield from self.certificates.shown(verbose=verbose)
        yield from written_parts(self.written, self.notes)

    def to_json(self) -> dict[str, Any]:
        """The report as the documented object that `resize --json` prints."""
        return {
            "adapter": self.adapter,
            "output": self.written.path if self.written else None,
            "bytes": self.written.nbytes if self.written else None,
            **self.certificates.to_json(),
            "rounding": self.rounding,
            "notes": list(self.notes),
        }


class _Arguments(Ranks, Reading, total=False):
    overwrite: bool
    jobs: int | None
    progress: Progress
    approve: Callable[[ResizeReport], object] | None


@overload
def resize(
    adapter: AdapterLike, *, output: None = None, **arguments: Unpack[_Arguments]
) -> Adapter[ResizeReport]: ...
@overload
def resize(
    adapter: AdapterLike, *, output: str | Path, **arguments: Unpack[_Arguments]
) -> ResizeReport: ...
@overload
def resize(
    adapter: AdapterLike, *, output: str | Path | None, **arguments: Unpack[_Arguments]
) -> Adapter[ResizeReport] | ResizeReport: ...
@shows_progress("targets")
@checked
def resize(
    adapter: AdapterLike,
    *,
    output: str | Path | None = None,
    rank: int | None = None,
    energy: float | None = None,
    error: float | None = None,
    size: int | str | None = None,
    rule: "RankRule | None" = None,
    overwrite: bool = False,
    jobs: int | None = None,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    progress: Progress = None,
    approve: Callable[[ResizeReport], object] | None = None,
) -> Adapter[ResizeReport] | ResizeReport:
    """Store the adapter at other ranks: the best approximation of each update, at its strength.

    A rank that grows is filled with zeros. Without a goal, all singular values that are not zero
    are kept. The report says how much was lost; an adapter in memory has it as `report`.

    Args:
        adapter: a path, a name on the Hub (`hf://owner/name`), or an opened adapter.
        output: where the adapter is written; None returns it instead, and writes nothing.
        rank: this rank for every target.
        energy: the least ranks that keep this share of the energy of each update (the sum of its
            squared singular values), above 0 and at most 1: 0.95 keeps 95%.
        error: the least ranks that lose at most this share of the norm of each update, from 0 to
            below 1.
        size: the best ranks for a file of at most this size: a number of bytes, or a text such as
            `"64MB"`.
        rule: a rule with more choices, instead of `rank`, `energy` and `error`.
        overwrite: replace an output that exists.
        jobs: the number of threads; None is one for each core.
        config: the `adapter_config.json` of an adapter that has none beside it.
        allow_pickle: read PyTorch's `.bin`, `.pt` and `.pth` files too, without running code that
            is in them.
        dialect_options: options of the adapter's format, by name: `{"out_proj": "once"}`.
        progress: called with the work that is done, in targets, and the number of all targets; True
            shows a bar on stderr. What it raises stops the verb.
        approve: called with the report before the output gets its name, or at the end where nothing
            is written; if it raises, no output is left.

    Example:
        >>> import loratools
        >>> small = loratools.resize("fixtures/adapters/plain", rank=4)
        >>> print(f"{small.report.certificates.total.error:.3f}")
        0.389

    Raises:
        LoratoolsError: see `loratools.errors`; no output is left then, and no input was changed.
    """
    from loratools.lowrank.ranks import RankRule

    limit = size_in_bytes(size)
    opened = opened_adapter(
        adapter, config=config, allow_pickle=allow_pickle, dialect_options=dialect_options
    )
    rule = rule_of(rule, rank=rank, energy=energy, error=error)
    import_torch()
    with threads(jobs, progress, len(opened.updates)) as each:
        resizing, rest = each.split(2, 4)
        make = partial(resized, opened, each=resizing)
        found = make(rule or RankRule()) if limit is None else fitted(make, rule, opened, limit)
        rounding, writing = rest.split(3 * has_rounded(found.adapter), 1)
        error = rounding_error(found.adapter, rounding)
        certificates = Certificates(found.ranks, found.truncations, found.gap)
        said = tuple(note.message for note in opened.remarks)
        notes = (*said, *found.notes, *rounding_note(found.adapter, error))
        return write_reported(
            ResizeReport(opened.where, certificates, notes, error, written=None),
            found.adapter,
            output,
            inputs=(adapter, config),
            overwrite=overwrite,
            each=writing,
            approve=approve,
        )
