"""`svd_extract` as a function: reads two models, and writes an adapter of their difference."""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Unpack, final, overload

from loratools.adapter import Adapter
from loratools.arguments import checked, checked_fields
from loratools.errors import OptionError, OutputError, counted, storage_errors
from loratools.extracting.adapter import adapter_of
from loratools.extracting.changed import differing, measure
from loratools.extracting.check import Check
from loratools.extracting.check import check as check_extraction
from loratools.extracting.difference import Difference
from loratools.extracting.factoring import Factoring, identity, input_files
from loratools.extracting.pairing import Pair, Pairing, pair_up
from loratools.extracting.parts import Part, Parts
from loratools.extracting.plan import ExtractOptions, ExtractPlan
from loratools.extracting.planner import plan_extract
from loratools.extracting.report import ExtractReport
from loratools.extracting.selection import comparable, matrices
from loratools.files.beside import of_adapter
from loratools.files.companions import laid_over
from loratools.files.in_memory import in_memory
from loratools.files.opening import companions_in, open_adapter, open_base
from loratools.files.output_names import check_name
from loratools.files.place import layers_of
from loratools.files.tensors import layout_of
from loratools.files.writing import Ranks, approved, put_files
from loratools.formats import encode
from loratools.hub.names import HubName, is_hub_name
from loratools.io.checkpoint import Checkpoint
from loratools.io.companions import Companion
from loratools.io.dtypes import BITS, nbytes
from loratools.io.folder import LocalFolder
from loratools.io.publish import Staging, check_output, staged
from loratools.io.sizes import size_in_bytes
from loratools.io.streaming import stream
from loratools.keywords import with_keywords
from loratools.lowrank.ranks import RankRule, Wanted, rule_of
from loratools.lowrank.settle import first_question, settle
from loratools.running.parallel import Map, threads
from loratools.running.progress import Progress, shows_progress
from loratools.running.watch import Watch
from loratools.showing.shown import Brief

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
        progress: called by any thread with the bytes done and the bytes in all; if it raises, the
            extraction stops.
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


class _Arguments(Ranks, total=False):
    only: Sequence[str] | None
    skip: Sequence[str] | None
    dtype: str | None
    options: ExtractOptions | None
    base_name: str | None
    check: bool
    overwrite: bool | None
    jobs: int | None
    progress: Progress
    run: ExtractRun | None
    variant: str | None


@overload
def svd_extract(
    tuned: str | Path,
    base: str | Path,
    *,
    output: None = None,
    dry_run: Literal[False] = False,
    **arguments: Unpack[_Arguments],
) -> Adapter: ...
@overload
def svd_extract(
    tuned: str | Path,
    base: str | Path,
    *,
    output: str | Path,
    dry_run: bool = False,
    **arguments: Unpack[_Arguments],
) -> ExtractReport: ...
@overload
def svd_extract(
    tuned: str | Path,
    base: str | Path,
    *,
    output: str | Path | None = None,
    dry_run: Literal[True],
    **arguments: Unpack[_Arguments],
) -> ExtractReport: ...
@overload
def svd_extract(
    tuned: str | Path,
    base: str | Path,
    *,
    output: str | Path | None = None,
    dry_run: bool = False,
    **arguments: Unpack[_Arguments],
) -> Adapter | ExtractReport: ...
@shows_progress("B")
@checked
def svd_extract(
    tuned: str | Path,
    base: str | Path,
    *,
    output: str | Path | None = None,
    rank: int | None = None,
    energy: float | None = None,
    error: float | None = None,
    size: int | str | None = None,
    rule: RankRule | None = None,
    only: Sequence[str] | None = None,
    skip: Sequence[str] | None = None,
    dtype: str | None = None,
    options: ExtractOptions | None = None,
    base_name: str | None = None,
    check: bool = False,
    overwrite: bool | None = None,
    jobs: int | None = None,
    progress: Progress = None,
    run: ExtractRun | None = None,
    variant: str | None = None,
    dry_run: bool = False,
) -> Adapter | ExtractReport:
    """Make an adapter that turns `base` into `tuned`, as nearly as the ranks allow.

    Without a goal for the ranks, all singular values that are not zero are kept. Differences are
    read in blocks of rows, and factors are stored as they are found, so memory does not depend on
    the size of the models.

    Args:
        tuned: the model that was trained: a folder, a file, or a name on the Hub.
        base: the model that it was trained from.
        output: where the adapter is written; None returns it instead. Its factors are then in
            memory, and meanwhile in a folder for temporary files.
        rank: this rank for every target.
        energy: the least ranks that keep this share of the energy of each update (the sum of its
            squared singular values), above 0 and at most 1.
        error: the least ranks that lose at most this share of the norm of each update, from 0 to 1.
        size: the best ranks for a file of at most this size: a number of bytes, or a text such as
            `"64MB"`.
        rule: a rule with more choices, instead of `rank`, `energy` and `error`.
        only: look only at tensors that match one of these globs.
        skip: leave out tensors that match one of these globs.
        dtype: the dtype of the factors: `float32` (the default), `bfloat16` or `float16`.
        options: the choices above and more, as one object.
        base_name: the base's name in the config; the path or name that is given by default.
        check: merge the result back and compare it with `tuned`.
        overwrite: replace an output that exists.
        jobs: the number of threads; None is one for each core.
        progress: called with the bytes done and the bytes in all; True shows a bar on stderr.
            What it raises stops the verb.
        run: how it runs, as one object.
        variant: read the weights of a model from its files `model.NAME.safetensors`, such as
            `"fp16"`; `"none"`: from those without a name.
        dry_run: check and report, but write nothing: only compare the tensors.

    Example:
        >>> import loratools, tempfile
        >>> base, adapter = "fixtures/stories260k", "fixtures/adapters/plain"
        >>> tuned = tempfile.mkdtemp() + "/tuned"
        >>> report = loratools.merge(base, adapter, output=tuned)
        >>> found = loratools.svd_extract(tuned, base, rank=8)
        >>> found["layers.0.self_attn.q_proj"]
        <model.layers.0.self_attn.q_proj.weight: LoRA, 64 × 64, rank 8, scaling 1>

    Raises:
        LoratoolsError: see `loratools.errors`; no output is left then, and no input was changed.
    """
    options = with_keywords(
        options or ExtractOptions(),
        only=None if only is None else tuple(only),
        skip=None if skip is None else tuple(skip),
        dtype=dtype,
    )
    run = with_keywords(run or ExtractRun(), overwrite=overwrite, jobs=jobs, progress=progress)
    rule = rule_of(rule, rank=rank, energy=energy, error=error)
    limit = size_in_bytes(size)
    if base_name is not None and not base_name.strip():
        raise OptionError("the name of the base is empty", hint="leave it out to have the path")
    pairing = pair_up(
        open_base(tuned, companions=True, variant=variant), open_base(base, variant=variant)
    )
    stream(list(input_files(pairing)))  # both together may be larger than memory
    pairs = comparable(pairing, options)
    rule = rule or RankRule()
    if limit is not None:
        rule.refuse_goal_beside("size")
    with threads(run.jobs) as each:
        own = {pair.twin or pair.target: pair.after.nbytes for pair in pairs}
        watch = Watch(sum(own.values()), run.progress)
        plan = _plan(pairing, pairs, options, watch, each)
        if dry_run:
            found = measure([target.pair for target in plan.factored.values()], each, watch)
            report = ExtractReport(plan.measured(found, options), {})
            approved(report, run.approve)
            return report
        name = _base_name(base) if base_name is None else base_name
        if output is not None:
            work = _Work(plan, rule, limit, options, Path(output), name, check)
            return _write(work, run, watch, each)
        with TemporaryDirectory(prefix="loratools-") as folder:
            made = Path(folder) / "adapter"
            work = _Work(plan, rule, limit, options, made, name, check)
            report = _write(work, run, watch, each)
            where = f"{pairing.tuned.where} - {pairing.base.where}"
            adapter = in_memory(made, where=where, companions=_companions(pairing.tuned))
            return replace(adapter, report=replace(report, output=None))


def _plan(
    pairing: Pairing, pairs: Sequence[Pair], options: ExtractOptions, watch: Watch, each: Map
) -> ExtractPlan:
    """Plan an extraction, with the norms of the changed tensors that are not factored."""
    changed = differing(pairs, each, watch)
    factored = matrices(pairing, changed, options)
    others = [pair for pair in changed if pair.target not in factored]
    plan = plan_extract(pairing, factored, measure(others, each, watch), options)
    # Factoring measures the other matrices, but leaves out those of a module stored whole.
    moved = [pair for pair in changed if pair.target in factored.keys() - plan.factored.keys()]
    return plan.measured(measure(moved, each, watch), options) if moved else plan


@final
@dataclass(frozen=True)
class _Work:
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


def _write(work: _Work, run: ExtractRun, watch: Watch, each: Map) -> ExtractReport:
    pairing, output = work.plan.pairing, work.output
    check_output(
        output,
        [path for model in (pairing.tuned, pairing.base) for path in model.paths],
        is_folder=True,
        needed_bytes=_needed_bytes(work),
        overwrite=run.overwrite,
    )
    check_name(output, is_folder=True)
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


def _put(work: _Work, parts: Parts, staging: Staging, watch: Watch, each: Map) -> ExtractReport:
    """Find the factors, write the adapter's files, and check those files if that is asked for."""
    factors = Factoring(work.plan.pairing, work.options, parts, watch, each)
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
        companions=_companions(work.plan.pairing.tuned),
    )
    dialect = work.plan.pairing.dialect
    bundle = encode(adapter, dialect.name)
    written = put_files(bundle, dialect, layout_of(bundle), staging, each)
    return ExtractReport(
        plan=work.plan,
        truncations={t: part.spectrum().truncation(rank) for t, (part, rank) in chosen.items()},
        gap=settled.choice.gap,
        output=str(work.output),
        nbytes=written.nbytes,
        reused=factors.reused,
        damaged=parts.damaged,
        check=_checked(work, staging, chosen, watch, each),
    )


def _checked(
    work: _Work,
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


def _base_name(base: str | Path) -> str:
    name, *overlays = layers_of(base)
    is_on_hub = is_hub_name(name) and not overlays
    return HubName.parse(name).repo if is_on_hub else str(base)


def _companions(model: Checkpoint) -> tuple[Companion, ...]:
    if not model.is_folder or model.path is None:
        return ()
    own = companions_in(LocalFolder(model.path, model.where))
    found = laid_over({companion.name: companion for companion in own}, model)
    return tuple(found[name] for name in of_adapter(found))


def _shapes(plan: ExtractPlan) -> list[tuple[int, int]]:
    pairs = [target.pair for target in plan.factored.values()]
    return [Difference(pair.after, pair.before).shape for pair in pairs]


def _needed_bytes(work: _Work) -> int:
    """An estimate of the bytes of parts and output together, before the ranks are known."""
    rule, plan = work.rule, work.plan
    element = BITS[work.options.stored_dtype] // 8
    sizes = map(sum, _shapes(plan))
    factors = rule.parameters or (rule.rank or rule.min_rank) * sum(sizes)
    whole = sum(nbytes(r.source.dtype, r.source.shape) for r in plan.whole.values())
    beside = sum(c.nbytes for c in _companions(plan.pairing.tuned))
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
            hint="use --residual drop",
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
