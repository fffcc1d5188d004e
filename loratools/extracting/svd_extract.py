"""`svd_extract` as a function: reads two models, and writes an adapter of their difference."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Unpack, cast, overload

from loratools.adapter import Adapter
from loratools.arguments import checked
from loratools.errors import OptionError
from loratools.extracting.changed import differing, measure
from loratools.extracting.factoring import input_files
from loratools.extracting.pairing import Pair, Pairing, pair_up
from loratools.extracting.plan import ExtractOptions, ExtractPlan
from loratools.extracting.planner import plan_extract
from loratools.extracting.report import ExtractReport
from loratools.extracting.selection import comparable, matrices
from loratools.extracting.writing import (
    CHECK_EFFORT,
    PUT_EFFORT,
    ExtractRun,
    Work,
    check_place,
    companions_of,
    write,
)
from loratools.files.in_memory import in_memory
from loratools.files.opening import open_base
from loratools.files.place import layers_of
from loratools.files.writing import approved
from loratools.hub.names import HubName, is_hub_name
from loratools.io.sizes import size_in_bytes
from loratools.io.streaming import stream
from loratools.keywords import with_keywords
from loratools.lowrank.goals import Ranks, rule_of
from loratools.lowrank.ranks import RankRule
from loratools.running.parallel import threads
from loratools.running.progress import Progress, shows_progress
from loratools.running.share import Map
from loratools.running.watch import Watch


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
) -> Adapter[ExtractReport]: ...
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
) -> Adapter[ExtractReport] | ExtractReport: ...
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
) -> Adapter[ExtractReport] | ExtractReport:
    """Make an adapter that turns `base` into `tuned`, as nearly as the ranks allow.

    The order matters: with the two swapped, it is the negative adapter, which turns `tuned` into
    `base`. Nothing in their tensors tells.

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
            squared singular values), above 0 and at most 1: 0.95 keeps 95%.
        error: the least ranks that lose at most this share of the norm of each update, from 0 to
            below 1.
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
        progress: called with the work that is done, in bytes of the tuned model, and the number of
            all its bytes, in the threads that compute too, one call at a time; True shows a bar on
            stderr. What it raises stops the verb.
        run: how it runs, as one object.
        variant: read the weights of a model from its files `model.NAME.safetensors`, such as
            `"fp16"`; `"none"`: from those without a name.
        dry_run: check and report, but write nothing: only compare the tensors. An `output` is
            checked too.

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
    if dry_run and output is not None:
        check_place(pairing, Path(output), run)
    stream(list(input_files(pairing)))  # both together may be larger than memory
    pairs = comparable(pairing, options)
    rule = rule or RankRule()
    if limit is not None:
        rule.refuse_goal_beside("size")
    own = {pair.twin or pair.target: pair.after.nbytes for pair in pairs}
    total = sum(own.values())
    with threads(run.jobs, run.progress, total) as each:
        finding, rest = each.split(12, 0 if dry_run else PUT_EFFORT + CHECK_EFFORT * check)
        watch = Watch(total, finding.tell)
        plan = _plan(pairing, pairs, options, watch, each.uncounted)
        if dry_run:
            factored = [target.pair for target in plan.factored.values()]
            found = measure(factored, each.uncounted, watch)
            report = ExtractReport(plan.measured(found, options), {})
            approved(report, run.approve)
            return report
        name = _base_name(base) if base_name is None else base_name
        if output is not None:
            work = Work(plan, rule, limit, options, Path(output), name, check)
            return write(work, run, watch, rest)
        with TemporaryDirectory(prefix="loratools-") as folder:
            made = Path(folder) / "adapter"
            work = Work(plan, rule, limit, options, made, name, check)
            report = write(work, run, watch, rest)
            where = f"{pairing.tuned.where} - {pairing.base.where}"
            adapter = in_memory(made, where=where, companions=companions_of(pairing.tuned))
            adapter = replace(adapter, report=replace(report, output=None))
            return cast("Adapter[ExtractReport]", adapter)


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


def _base_name(base: str | Path) -> str:
    name, *overlays = layers_of(base)
    is_on_hub = is_hub_name(name) and not overlays
    return HubName.parse(name).repo if is_on_hub else str(base)
