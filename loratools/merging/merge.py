"""Merge adapters into a base, from files to files: plan, check, stage, execute, publish."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loratools.arguments import checked
from loratools.errors import OptionError, StorageError, UnsupportedError
from loratools.files.companions import Companions, changed_companions, companions
from loratools.files.opening import AdapterLike, open_base, opened_adapter
from loratools.files.outputs import check_output
from loratools.files.own_base import adapter_in, holds_base, without_adapter
from loratools.files.place import layers_of, local_paths
from loratools.files.writing import approved
from loratools.formats import check_options
from loratools.io.clones import bytes_to_write
from loratools.io.file import InputFile
from loratools.io.publish import staged
from loratools.io.sizes import size_in_bytes
from loratools.io.writer import OutputFile
from loratools.keywords import with_keywords
from loratools.merging.arrange import (
    PlannedFile,
    arrange,
    arrange_changed,
    clonable_bytes,
    corrected_configs,
    index_files,
)
from loratools.merging.effects import idle_parts
from loratools.merging.execute import WriteOptions, execute
from loratools.merging.overlay import write_overlay
from loratools.merging.padding import with_pad_token
from loratools.merging.plan import Dtype, MergeOptions, MergePlan
from loratools.merging.planner import plan_merge
from loratools.merging.report import MergeReport
from loratools.merging.touched import sum_of
from loratools.merging.weights import Adapters, weighted
from loratools.running.progress import Progress, shows_progress
from loratools.running.steps import Run
from loratools.typed import of_format

if TYPE_CHECKING:
    from loratools.merging.steps import Measured
    from loratools.merging.touched import Kept

_SLACK_BYTES = 2**20


@shows_progress("B")
@checked
def merge(
    base: str | Path,
    adapters: Adapters = (),
    *,
    output: str | Path | None = None,
    weights: Sequence[float] | None = None,
    dtype: Dtype | None = None,
    only: Sequence[str] | None = None,
    skip: Sequence[str] | None = None,
    allow_unmatched: bool | None = None,
    block_weights: Sequence[str] | None = None,
    options: MergeOptions | None = None,
    overwrite: bool | None = None,
    jobs: int | None = None,
    progress: Progress = None,
    write: WriteOptions | None = None,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    variant: str | None = None,
    dry_run: bool = False,
) -> MergeReport:
    """Write `base + Σ weight · adapter`, rounded once, to `output`.

    The base is read in blocks of rows, so memory does not depend on its size. `output` appears
    complete or not at all. With `write.only_changed` it is an overlay, a folder of what differs
    from the base; and `BASE+OVERLAY` is a base, of which a merge without adapters makes a whole
    model. So does it of a state dict with home-made layers, which holds its own base (`keys` among
    `dialect_options`).

    Args:
        base: the base model: a folder, a file, or a name on the Hub (`hf://owner/name`).
        adapters: paths, names on the Hub or opened adapters; each alone, or with its weight:
            `("style", 0.7)`.
        output: where the model is written: a folder for one, a file for a file. None only plans the
            merge, and writes nothing.
        weights: the weight of each adapter, in order; 1 by default. 1 is the strength as trained,
            0.5 half of it, and -1 its opposite.
        dtype: the dtype of all float weights: `float32`, `bfloat16` or `float16`; by default each
            keeps its own.
        only: change only tensors that match one of these globs.
        skip: leave tensors that match one of these globs as they are.
        allow_unmatched: leave out updates that the model has no place for; the report names them.
        block_weights: for each adapter, in order: weights of the blocks of an image model, as a
            text: a list of numbers, a preset, or blocks by name (`OUTD`, `IN04=0.5`).
        options: the choices above and more, as one object.
        overwrite: replace an output that exists.
        jobs: the number of threads; None is one for each core.
        progress: called with the bytes done and the bytes in all; True shows a bar on stderr.
            What it raises stops the merge.
        write: how the output is written, as one object: shards, stochastic rounding, overlays.
        config: the `adapter_config.json` of an adapter that has none beside it.
        allow_pickle: read PyTorch's `.bin`, `.pt` and `.pth` files too, without running code that
            is in them.
        dialect_options: options of the adapter's format, by name: `{"out_proj": "once"}`.
        variant: read the weights of a model from its files `model.NAME.safetensors`, such as
            `"fp16"`; `"none"`: from those without a name.
        dry_run: check and report, but write nothing. An `output` is checked too.

    Example:
        >>> import loratools
        >>> base, adapter = "fixtures/stories260k", "fixtures/adapters/plain"
        >>> report = loratools.merge(base, [(adapter, 0.7)])  # output= writes it
        >>> report.accounting
        '70 of 70 adapter tensors applied to 35 weights; 13 base tensors unchanged'

    Raises:
        LoratoolsError: see `loratools.errors`; nothing is then left behind, and no input touched.
    """
    paths, weights = weighted(adapters, weights)
    options = with_keywords(
        options or MergeOptions(),
        dtype=dtype,
        only=None if only is None else tuple(only),
        skip=None if skip is None else tuple(skip),
        allow_unmatched=allow_unmatched,
        block_weights=block_weights,
    )
    write = with_keywords(
        write or WriteOptions(), overwrite=overwrite, jobs=jobs, progress=progress
    )
    check_options(dialect_options or {})
    _check_adapters(base, paths, write, dialect_options or {})
    checkpoint = open_base(base, companions=True, variant=variant)
    if not paths and holds_base(dialect_options or {}):
        paths, weights = [adapter_in(base, checkpoint)], (1.0,)
        checkpoint = without_adapter(checkpoint, dialect_options or {})
    opened = [
        opened_adapter(
            path, config=config, allow_pickle=allow_pickle, dialect_options=dialect_options
        )
        for path in paths
    ]
    plan = plan_merge(checkpoint, opened, weights, options)
    files = _files(plan, write, output)
    beside = companions(checkpoint, opened)
    plan = with_pad_token(plan, beside)
    beside = beside.having(_made(plan, files, options, write))
    if write.only_changed:
        beside = changed_companions(beside, checkpoint)
    report = MergeReport(
        plan=plan,
        output=None if output is None or dry_run else str(output),
        files={file.name: file.layout.size for file in files},
        fidelity={},
        left_out=beside.left_out,
        beside=beside.notes,
        is_overlay=write.only_changed,
        is_stochastic=write.seed is not None,
    )
    if output is not None:
        inputs = (*local_paths(base, *paths, config), *checkpoint.paths)
        _check_place(report, files, beside, Path(output), inputs, write)
    if output is not None and not dry_run:
        return _write(report, files, beside, Path(output), write)
    report = replace(report, idle=tuple(idle_parts(plan, {})))
    approved(report, write.approve)
    return report


def _check_adapters(
    base: str | Path,
    adapters: Sequence[AdapterLike],
    write: WriteOptions,
    dialect_options: Mapping[str, str],
) -> None:
    """Refuse a merge without adapters, but for one of overlays, or of an adapter in the base."""
    if adapters:
        return
    if len(layers_of(base)) == 1 and not holds_base(dialect_options):
        raise OptionError(
            f"{base}: no adapter to merge",
            hint="without one, only BASE+OVERLAY is written, or a file "
            f"that holds adapter and base, as {of_format('keys', 'base=PATTERN')} says",
        )
    if write.only_changed:
        raise OptionError("only_changed: nothing changes without an adapter")


def _files(
    plan: MergePlan, write: WriteOptions, output: str | Path | None
) -> tuple[PlannedFile, ...]:
    """The files under their names in the output: a single file has the name of the output."""
    base = plan.base
    most = size_in_bytes(write.max_shard_bytes)
    if write.only_changed:
        return arrange_changed(plan, most)
    files = arrange(plan, most)
    if base.is_folder:
        return files
    if len(files) > 1:
        raise UnsupportedError(
            f"{base.where}: a single file, which is merged into a single file and not split",
            hint="name its folder to split it",
        )
    return files if output is None else (replace(files[0], name=Path(output).name),)


def _check_place(
    report: MergeReport,
    files: Sequence[PlannedFile],
    beside: Companions,
    output: Path,
    inputs: Sequence[Path],
    write: WriteOptions,
) -> None:
    """Refuse an output that these files cannot be written to."""
    total = sum(file.layout.size for file in files) + beside.nbytes + _SLACK_BYTES
    check_output(
        output,
        inputs,
        is_folder=_is_folder(report),
        needed_bytes=bytes_to_write(total, clonable_bytes(files), output.parent),
        overwrite=write.overwrite,
    )


def _is_folder(report: MergeReport) -> bool:
    return report.plan.base.is_folder or report.is_overlay


def _write(
    report: MergeReport,
    files: Sequence[PlannedFile],
    beside: Companions,
    output: Path,
    write: WriteOptions,
) -> MergeReport:
    """Write the output; return the report, which is complete before the output has its name."""
    data_bytes = sum(file.layout.size - len(file.layout.header) for file in files)
    run: Run[Measured | None] = Run(data_bytes, write.progress)
    with staged(output, is_folder=_is_folder(report), overwrite=write.overwrite) as staging:
        outputs = [OutputFile(staging.path(file.name), file.layout) for file in files]
        kept = execute(run, files, outputs, write)
        for file in files:
            _verify(staging.folder / file.name, file)
        if write.only_changed:
            write_overlay(report.plan, files, beside, staging)
        else:
            beside.write(staging)
        # A change during the merge may have mixed old and new values: nothing is published then.
        for source in report.plan.base.files:
            source.check_unchanged()
            source.forget(0, source.size)  # what was read ahead of the steps
        report = measured(report, kept)
        approved(report, write.approve)
        staging.publish()
    return report


def measured(report: MergeReport, kept: "Mapping[str, Kept]") -> MergeReport:
    """The report with what was measured, and with the parts that turned out to change nothing."""
    found = {name: sum_of(kept[name]) for name in report.plan.tensors if name in kept}
    # With a NaN or an infinity there is no fidelity to report, and JSON has no such numbers.
    finite = {
        name: fidelity
        for name, fidelity in found.items()
        if fidelity is not None and math.isfinite(fidelity.relative_error)
    }
    idle = idle_parts(report.plan, {name: kept[name] for name in finite})
    return replace(report, fidelity=finite, idle=tuple(idle))


def _verify(path: Path, file: PlannedFile) -> None:
    """Read a finished file's header back, and compare it with the planned layout."""
    planned = {tensor.name: tensor for tensor in file.layout.tensors.values()}
    if {tensor.name: tensor for tensor in InputFile(path).read_header().tensors} != planned:
        raise StorageError(f"{path}: was not written as planned", hint="check the disk")


def _made(
    plan: MergePlan, files: Sequence[PlannedFile], options: MergeOptions, write: WriteOptions
) -> dict[str, bytes]:
    """The generated files: the indexes that the output has, and the configs that change."""
    indexes = {} if write.only_changed else index_files(plan, files)
    return indexes | corrected_configs(plan, options.dtype)
