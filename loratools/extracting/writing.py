"""Carry an extraction out: find the factors, write the adapter, and check it where asked to."""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from loratools.arguments import checked_fields
from loratools.errors import OutputError, counted
from loratools.extracting.adapter import adapter_of
from loratools.extracting.check import Check
from loratools.extracting.check import check as check_extraction
from loratools.extracting.difference import Difference
from loratools.extracting.factoring import Factoring, identity, input_files
from loratools.extracting.pairing import Pairing
from loratools.extracting.parts import Part, Parts
from loratools.extracting.plan import ExtractOptions, ExtractPlan
from loratools.extracting.report import ExtractReport
from loratools.files.beside import of_adapter
from loratools.files.bundles import companions_in
from loratools.files.companions import laid_over
from loratools.files.opening import open_adapter
from loratools.files.outputs import check_output
from loratools.files.tensors import layout_of
from loratools.files.writing import approved, put_files
from loratools.formats import encode
from loratools.io.checkpoint import Checkpoint
from loratools.io.companions import Companion
from loratools.io.dtypes import BITS, nbytes
from loratools.io.failures import storage_errors
from loratools.io.folder import LocalFolder
from loratools.io.publish import Staging, staged
from loratools.lowrank.ranks import RankRule, Wanted
from loratools.lowrank.settle import first_question, settle
from loratools.running.share import Map, Share
from loratools.running.watch import Watch
from loratools.showing.shown import Brief
from loratools.typed import drop_residual

#: How long it takes to write the factors and to check them, beside 12 for finding them.
PUT_EFFORT, CHECK_EFFORT = 1, 6

_PARTS = "parts"
_SLACK_BYTES = 2**20
#: The most bytes that a tensor's entry in a file's header takes, besides its target's name.
_ENTRY_BYTES = 144


@checked_fields
@final
@dataclass(frozen=True, repr=False)
class ExtractRun(Brief):
    """How an extraction runs; the bytes of the output do not depend on it.

    Attributes:
        overwrite: replace an output that exists.
        resume: go on where an interrupted run stopped, with the factors that it had finished; if
            this run is interrupted, its own finished factors are kept as well.
        jobs: the number of threads; None is one for each core.
        progress: called by any thread with the work that is done, in bytes of the tuned model, and
            the number of all its bytes; if it raises, the extraction stops.
        approve: called with the report before the output gets its name, or at the end of a dry run.
            If it raises, no output is left.

    Example:
        >>> import loratools
        >>> run = loratools.ExtractRun(resume=True, jobs=8)
    """

    overwrite: bool = False
    resume: bool = False
    jobs: int | None = None
    progress: Callable[[int, int], None] | None = None
    approve: Callable[[ExtractReport], object] | None = None


@final
@dataclass(frozen=True)
class Work:
    """The plan of an extraction, and all choices about the adapter that is written."""

    plan: ExtractPlan
    goal: RankRule
    size: int | None
    options: ExtractOptions
    output: Path
    base_name: str
    check: bool

    @property
    def rule(self) -> RankRule:
        """The goal, with a budget of factors if there is a size, as far as the plan is known.

        Raises:
            OutputError: a file of this size has no room for factors.
        """
        if self.size is None:
            return self.goal
        return replace(self.goal, parameters=_elements(self.plan, self.options, self.size))


def check_place(pairing: Pairing, output: Path, run: ExtractRun, needed_bytes: int = 0) -> None:
    """Refuse an output that the adapter cannot be written to.

    Raises:
        OutputError, StorageError: see `check_output`.
    """
    models = [path for model in (pairing.tuned, pairing.base) for path in model.paths]
    overwrite = run.overwrite
    check_output(output, models, is_folder=True, needed_bytes=needed_bytes, overwrite=overwrite)


def write(work: Work, run: ExtractRun, watch: Watch, each: Share) -> ExtractReport:
    """Write the adapter of an extraction, complete or not at all.

    Raises:
        LoratoolsError: see `loratools.errors`; no output is left then.
    """
    pairing, output = work.plan.pairing, work.output
    check_place(pairing, output, run, _needed_bytes(work))
    with staged(output, is_folder=True, overwrite=run.overwrite, resume=run.resume) as staging:
        _remove_all_but(staging.folder, _PARTS)
        parts = Parts(staging.folder / _PARTS, identity(pairing, work.options))
        report = _put(work, parts, staging, watch, each)
        for file in input_files(pairing):
            file.check_unchanged()
        with storage_errors(parts.folder):
            shutil.rmtree(parts.folder)
        approved(report, run.approve)
        staging.publish()
    return report


def _put(work: Work, parts: Parts, staging: Staging, watch: Watch, each: Share) -> ExtractReport:
    """Find the factors, write the adapter's files, and check those files if that is asked for."""
    factors = Factoring(work.plan.pairing, work.options, parts, watch, each.uncounted)
    wanted = first_question(_shapes(work.plan), work.rule)
    found = factors([(target, wanted) for target in work.plan.factored])
    first = dict(zip(work.plan.factored, found, strict=True))
    norms = {target: part.norms for target, part in first.items()}
    work = replace(work, plan=work.plan.measured(norms, work.options))
    targets = list(work.plan.factored)

    def find(questions: Sequence[tuple[int, Wanted]]) -> list[Part]:
        return factors([(targets[i], more) for i, more in questions])

    settled = settle([first[target] for target in targets], wanted, work.rule, find)
    # Rank 0 leaves a target out: without singular values there is nothing to store at any rank.
    ranks = [
        rank if len(part.spectrum().values) else 0
        for part, rank in zip(settled.found, settled.choice.ranks, strict=True)
    ]
    chosen = dict(zip(targets, zip(settled.found, ranks, strict=True), strict=True))
    adapter = adapter_of(
        work.plan,
        chosen,
        where=str(work.output),
        base_name=work.base_name,
        companions=companions_of(work.plan.pairing.tuned),
    )
    dialect = work.plan.pairing.dialect
    bundle = encode(adapter, dialect.name)
    writing, checking = each.split(PUT_EFFORT, CHECK_EFFORT * work.check)
    written = put_files(bundle, dialect, layout_of(bundle), staging, writing)
    return ExtractReport(
        plan=work.plan,
        truncations={t: part.spectrum().truncation(rank) for t, (part, rank) in chosen.items()},
        gap=settled.choice.gap,
        output=str(work.output),
        nbytes=written.nbytes,
        reused=factors.reused,
        damaged=parts.damaged,
        check=_checked(work, staging, chosen, watch, checking),
    )


def _checked(
    work: Work,
    staging: Staging,
    chosen: Mapping[str, tuple[Part, int]],
    watch: Watch,
    each: Map,
) -> Check | None:
    if not work.check:
        return None
    return check_extraction(
        work.plan,
        open_adapter(staging.folder),
        {target: (part.spectrum(), rank) for target, (part, rank) in chosen.items()},
        work.options.stored_dtype,
        unsure=math.fsum(part.unsure for part, _ in chosen.values()),
        each=each,
        tick=watch,
    )


def companions_of(model: Checkpoint) -> tuple[Companion, ...]:
    """The files of the tokenizer and the processor of a model, which its adapter gets too."""
    if not model.is_folder or model.path is None:
        return ()
    own = companions_in(LocalFolder(model.path, model.where))
    found = laid_over({companion.name: companion for companion in own}, model)
    return tuple(found[name] for name in of_adapter(found))


def _shapes(plan: ExtractPlan) -> list[tuple[int, int]]:
    pairs = [target.pair for target in plan.factored.values()]
    return [Difference(pair.after, pair.before).shape for pair in pairs]


def _needed_bytes(work: Work) -> int:
    """An estimate of the bytes of parts and output together, before the ranks are known."""
    rule, plan = work.rule, work.plan
    element = BITS[work.options.stored_dtype] // 8
    sizes = map(sum, _shapes(plan))
    factors = rule.parameters or (rule.rank or rule.min_rank) * sum(sizes)
    whole = sum(nbytes(r.source.dtype, r.source.shape) for r in plan.whole.values())
    beside = sum(c.nbytes for c in companions_of(plan.pairing.tuned))
    return 2 * factors * element + whole + beside + _SLACK_BYTES


def _elements(plan: ExtractPlan, options: ExtractOptions, size: int) -> int:
    """The number of elements of factors that fit into a file of `size` bytes.

    Raises:
        OutputError: whole tensors and the header alone are larger.
    """
    rest = sum(nbytes(r.source.dtype, r.source.shape) for r in plan.whole.values())
    # Targets that are not measured yet may still be left out, and then need no entry.
    factored = [target for target in plan.factored if target in plan.changes]
    rest += sum(_ENTRY_BYTES + len(target) for target in (*plan.whole, *2 * factored))
    if rest >= size:
        raise OutputError(
            f"{counted(rest, 'byte')} without any factors, more than {size}",
            hint=f"use {drop_residual()}",
        )
    return (size - rest) * 8 // BITS[options.stored_dtype]


def _remove_all_but(folder: Path, name: str) -> None:
    """Remove all but the finished parts: an interrupted run's other files are written again."""
    with storage_errors(folder):
        for path in folder.iterdir():
            if path.is_dir() and path.name != name:
                shutil.rmtree(path)
            elif not path.is_dir():
                path.unlink()
