"""Swap adapters in a model's own files: from the original tensors, under a journal, exactly."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from loratools.adapter import Adapter
from loratools.arguments import checked
from loratools.errors import OptionError, escaped
from loratools.files.opening import opened_adapter
from loratools.files.swapped import SwappedIn, SwappedTensor, SwapState, refuse_half_swapped
from loratools.files.writing import approved
from loratools.formats import check_options
from loratools.io.checkpoint import Checkpoint
from loratools.keywords import with_keywords
from loratools.merging.execute import WriteOptions
from loratools.merging.merge import measured
from loratools.merging.plan import MergeOptions, MergePlan
from loratools.merging.weights import Adapters, weighted
from loratools.running.progress import Progress, shows_progress
from loratools.running.share import Meter, Span
from loratools.swapping.journal import Journal, journal_folder, journal_of, state_of
from loratools.swapping.making import check_space, keep_originals, make_new
from loratools.swapping.owned import open_own
from loratools.swapping.phases import CHECKING, Phases, phases
from loratools.swapping.planned import on_originals, planned
from loratools.swapping.report import SwapReport
from loratools.swapping.rewriting import check_current, check_originals, originals_of

if TYPE_CHECKING:
    from loratools.merging.touched import Kept


@shows_progress("B")
@checked
def swap(
    model: str | Path,
    adapters: Adapters | None = None,
    *,
    weights: Sequence[float] | None = None,
    only: Sequence[str] | None = None,
    skip: Sequence[str] | None = None,
    allow_unmatched: bool | None = None,
    block_weights: Sequence[str] | None = None,
    options: MergeOptions | None = None,
    jobs: int | None = None,
    progress: Progress = None,
    write: WriteOptions | None = None,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    dry_run: bool = False,
    variant: str | None = None,
    approve: Callable[[SwapReport], object] | None = None,
) -> SwapReport:
    """Make a model, in its own files, what it was before any swap, plus `Σ weight · adapter`.

    Changed tensors have the bytes that `merge` would write. Whatever interrupts this, after the
    next call the model is what it was, or what it was to be.

    Args:
        model: the model whose files are changed: a folder or a file.
        adapters: paths, names on the Hub or opened adapters; each alone, or with its weight:
            `("style", 0.7)`. An empty list takes all adapters out: every byte is then as it was.
            With None the adapters stay, and only a swap that was interrupted is completed, as it is
            first by every call.
        weights: the weight of each adapter, in order; 1 by default. 1 is the strength as trained,
            0.5 half of it, and -1 its opposite.
        only: change only tensors that match one of these globs.
        skip: leave tensors that match one of these globs as they are.
        allow_unmatched: leave out updates that the model has no place for; the report names them.
        block_weights: for each adapter, in order: weights of the blocks of an image model, as a
            text: a list of numbers, a preset, or blocks by name (`OUTD`, `IN04=0.5`).
        options: the choices above and more, as one object.
        jobs: the number of threads; None is one for each core.
        progress: called with the share of the work that is done, in bytes of the model's tensors,
            and the bytes of all of them; True shows a bar on stderr. What it raises leaves the
            model; once new bytes are being copied into it, it is raised when they all are.
        write: how tensors are written, as one object.
        config: the `adapter_config.json` of an adapter that has none beside it.
        allow_pickle: read PyTorch's `.bin`, `.pt` and `.pth` files too, without running code that
            is in them.
        dialect_options: options of the adapter's format, by name: `{"out_proj": "once"}`.
        dry_run: check and report, but write nothing.
        variant: read the weights of a model from its files `model.NAME.safetensors`, such as
            `"fp16"`; `"none"`: from those without a name.
        approve: called with the report before the model is changed, or at the end of a dry run;
            what it raises leaves the model.

    Example:
        >>> import loratools
        >>> report = loratools.swap("fixtures/stories260k", "fixtures/adapters/plain", dry_run=True)
        >>> report.adapters
        (SwappedIn(path='fixtures/adapters/plain', weight=1.0),)

    Raises:
        LoratoolsError: see `loratools.errors`; unless the message says that the model is a mixture
            now, it is unchanged.
    """
    write = with_keywords(write or WriteOptions(), jobs=jobs, progress=progress)
    options = with_keywords(
        options or MergeOptions(),
        only=None if only is None else tuple(only),
        skip=None if skip is None else tuple(skip),
        allow_unmatched=allow_unmatched,
        block_weights=block_weights,
    )
    if write.max_shard_bytes is not None or write.only_changed or write.overwrite:
        raise OptionError(
            "max_shard_bytes, only_changed, overwrite: a swap keeps the model's files"
        )
    check_options(dialect_options or {})
    paths, found = weighted(() if adapters is None else adapters, weights)
    base = open_own(model, variant)
    opened = [
        opened_adapter(
            path, config=config, allow_pickle=allow_pickle, dialect_options=dialect_options
        )
        for path in paths
    ]
    wanted = None if adapters is None else _Wanted(opened, found, options, write)
    whole = Span(Meter(write.progress, sum(tensor.nbytes for tensor in base.tensors.values())))
    if dry_run or (not paths and not journal_folder(base).exists()):
        refuse_half_swapped(base)
        state = state_of(base)
        report = replace(_planned(base, state, wanted), dry_run=dry_run)
        whole.meter.again()
        _check(base, state, wanted, whole)
        whole.meter.end()
        _approved(report, write, approve)
        return report
    completing, rest = whole.split(1, 0 if wanted is None else 2)
    with journal_of(base, write.jobs, completing) as journal:
        if journal.was_interrupted:
            journal.base = open_own(model, variant)  # since its files have changed
        else:
            rest = whole
        report = _carried_out(journal, wanted, write, approve, rest)
        whole.meter.end()
        return report


@final
@dataclass(frozen=True)
class _Wanted:
    """The adapters that are to be in a model, and how they are merged."""

    adapters: Sequence[Adapter]
    weights: Sequence[float]
    options: MergeOptions
    write: WriteOptions


def _planned(base: Checkpoint, state: SwapState, wanted: _Wanted | None) -> SwapReport:
    """The report of a swap by headers alone; with None, of the model as it is.

    Raises:
        FormatError: what is kept of the model is missing or malformed.
        UnsupportedError: the adapters cannot be put in in place.
    """
    kept = sum(base.tensors[name].nbytes for name in state.tensors)
    now = SwapReport(base.where, state.adapters, state.adapters, {}, kept)
    if wanted is None:
        return now
    originals = originals_of(journal_folder(base), state)
    touched = {name for name, tensor in state.tensors.items() if tensor.current != tensor.original}
    if not wanted.adapters:
        return replace(now, adapters=(), rewritten=_sizes(base, touched), originals_bytes=0)
    merge = planned(
        on_originals(base, originals),
        wanted.adapters,
        wanted.weights,
        wanted.options,
        is_stochastic=wanted.write.seed is not None,
    )
    changed = {tensor.name for tensor in merge.plan.changed}
    pairs = zip(wanted.adapters, wanted.weights, strict=True)
    return replace(
        now,
        adapters=tuple(SwappedIn(escaped(adapter.where), weight) for adapter, weight in pairs),
        rewritten=_sizes(base, touched | changed),
        originals_bytes=sum(_sizes(base, state.tensors.keys() | changed).values()),
        merge=merge,
    )


def _check(base: Checkpoint, state: SwapState, wanted: _Wanted | None, span: Span) -> None:
    """Check that a model, and what is kept of it, are as its last swap has left them.

    Raises:
        FormatError: they are not.
        StorageError: a file cannot be read.
    """
    if wanted is None:
        return
    originals, current = span.split(*CHECKING)
    folder, jobs = journal_folder(base), wanted.write.jobs
    check_originals(originals_of(folder, state), folder, state, jobs, originals)
    check_current(base, state, jobs, current)


def _carried_out(
    journal: Journal,
    wanted: _Wanted | None,
    write: WriteOptions,
    approve: Callable[[SwapReport], object] | None,
    span: Span,
) -> SwapReport:
    """Do what is wanted under the journal; return the report, which is complete before that."""
    report = _planned(journal.base, journal.state, wanted)
    report = replace(report, completed=journal.was_interrupted)
    work = _phases(journal, report, span)
    span.meter.again()
    _check(journal.base, journal.state, wanted, work.checking)
    if report.merge is None:
        _approved(report, write, approve)
        if wanted is not None and not journal.state.is_clean:
            journal.decide(_goal(journal.state, {}, ()), work.writing)
        return report
    plan = report.merge.plan
    state, made, kept = _prepared(journal, plan, write, work)
    report = replace(report, merge=measured(report.merge, kept))
    _approved(report, write, approve)
    journal.decide(_goal(state, made, report.adapters), work.writing)
    return report


def _phases(journal: Journal, report: SwapReport, span: Span) -> Phases:
    changed = {} if report.merge is None else {t.name for t in report.merge.plan.changed}
    kept = journal.state.tensors.keys()
    sizes = (sum(_sizes(journal.base, names).values()) for names in (kept, changed - kept, changed))
    checked, new, made = sizes
    written = sum(report.rewritten.values())
    return phases(span, checked=checked, kept=new, made=made, written=written)


def _approved(
    report: SwapReport, write: WriteOptions, approve: Callable[[SwapReport], object] | None
) -> None:
    if report.merge is not None:
        approved(report.merge, write.approve)
    approved(report, approve)


def _prepared(
    journal: Journal, plan: MergePlan, write: WriteOptions, work: Phases
) -> "tuple[SwapState, dict[str, tuple[str, str]], dict[str, Kept]]":
    """Put what a swap needs into the journal's folder.

    Returns the state with the originals of all tensors that are to change; the file and the SHA-256
    of each new tensor, by name; and what was kept of its update.
    """
    state = journal.state
    new = [t.base for t in plan.changed if t.base is not None and t.name not in state.tensors]
    check_space(journal, new, plan.changed)
    tensors = dict(state.tensors)
    if new:
        file, known = keep_originals(journal, new, work.keeping)
        tensors |= {name: SwappedTensor(file, digest, digest) for name, digest in known.items()}
    made, kept = make_new(journal, plan, write, work.making)
    return replace(state, tensors=tensors), made, kept


def _goal(
    state: SwapState, made: Mapping[str, tuple[str, str]], adapters: Sequence[SwappedIn]
) -> SwapState:
    """The state with these adapters: new tensors are written, and others become as they were."""
    goal: dict[str, SwappedTensor] = {}
    for name, tensor in state.tensors.items():
        if name in made:
            source, current = made[name]
            goal[name] = replace(tensor, current=current, source=source)
        elif tensor.current != tensor.original:
            goal[name] = replace(tensor, current=tensor.original, source=tensor.originals)
        else:
            goal[name] = tensor
    return replace(state, adapters=tuple(adapters), tensors=goal)


def _sizes(base: Checkpoint, names: Collection[str]) -> dict[str, int]:
    return {name: tensor.nbytes for name, tensor in base.tensors.items() if name in names}
