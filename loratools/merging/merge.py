"""Merge adapters into a base, from files to files: plan, check, stage, execute, publish."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loratools.errors import StorageError, UnsupportedError
from loratools.files.companions import Companions, companions
from loratools.files.opening import open_adapter, open_base
from loratools.files.place import local_paths
from loratools.files.writing import approved
from loratools.formats import check_options
from loratools.io.checkpoint import Checkpoint
from loratools.io.file import InputFile
from loratools.io.publish import check_output, staged
from loratools.io.writer import OutputFile
from loratools.merging.arrange import PlannedFile, arrange, corrected_config, index_file
from loratools.merging.effects import idle_parts
from loratools.merging.execute import WriteOptions, execute
from loratools.merging.padding import with_pad_token
from loratools.merging.plan import MergeOptions, MergePlan
from loratools.merging.planner import plan_merge
from loratools.merging.report import MergeReport
from loratools.merging.weights import weights_for
from loratools.running.steps import Run

if TYPE_CHECKING:
    from loratools.merging.fidelity import Fidelity
    from loratools.merging.steps import Measured

_SLACK_BYTES = 2**20


def merge(
    base: str | Path,
    adapters: str | Path | Sequence[str | Path],
    *,
    output: str | Path | None,
    weights: Sequence[float] | None = None,
    options: MergeOptions | None = None,
    write: WriteOptions | None = None,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
) -> MergeReport:
    """Write `base + Σ weight · adapter` to `output`; if that is None, only plan it.

    All adapters are added before the one rounding to the base's dtype. The base is read in blocks
    of rows, so memory does not depend on its size. `output` appears complete or not at all.

    Raises:
        LoratoolsError: see `loratools.errors`; nothing is then left behind, and no input touched.
    """
    paths = [adapters] if isinstance(adapters, str | Path) else list(adapters)
    write = write or WriteOptions()
    options = options or MergeOptions()
    weights = weights_for(weights, len(paths))
    check_options(dialect_options or {})
    checkpoint = open_base(base, companions=True)
    opened = [
        open_adapter(
            path, config=config, allow_pickle=allow_pickle, dialect_options=dialect_options
        )
        for path in paths
    ]
    plan = plan_merge(checkpoint, opened, weights, options)
    files = _named(arrange(plan, write.max_shard_bytes), checkpoint, output)
    beside = companions(checkpoint, opened)
    plan = with_pad_token(plan, beside)
    beside = beside.having(_made(plan, files, options))
    report = MergeReport(
        plan=plan,
        output=None if output is None else str(output),
        files={file.name: file.layout.size for file in files},
        fidelity={},
        left_out=beside.left_out,
        beside=beside.notes,
        is_stochastic=write.seed is not None,
    )
    if output is None:
        report = replace(report, idle=tuple(idle_parts(plan, {})))
        approved(report, write.approve)
        return report
    inputs = local_paths(base, *paths, config)
    inputs += [shard.file.path for shard in checkpoint.shards]
    return _write(report, files, beside, Path(output), inputs, write)


def _named(
    files: tuple[PlannedFile, ...], base: Checkpoint, output: str | Path | None
) -> tuple[PlannedFile, ...]:
    """The files under their names in the output: a single file has the name of the output."""
    if base.is_folder:
        return files
    if len(files) > 1:
        raise UnsupportedError(
            f"{base.where}: a single file, which is merged into a single file and not split; "
            f"name its folder to split it"
        )
    return files if output is None else (replace(files[0], name=Path(output).name),)


def _write(
    report: MergeReport,
    files: Sequence[PlannedFile],
    beside: Companions,
    output: Path,
    inputs: Sequence[Path],
    write: WriteOptions,
) -> MergeReport:
    """Write the output; return the report, which is complete before the output has its name."""
    is_folder = report.plan.base.is_folder
    check_output(
        output,
        inputs,
        is_folder=is_folder,
        needed_bytes=sum(file.layout.size for file in files) + beside.nbytes + _SLACK_BYTES,
        overwrite=write.overwrite,
    )
    data_bytes = sum(file.layout.size - len(file.layout.header) for file in files)
    run: Run[Measured | None] = Run(data_bytes, write.progress)
    with staged(output, is_folder=is_folder, overwrite=write.overwrite) as staging:
        outputs = [OutputFile(staging.folder / file.name, file.layout) for file in files]
        fidelity = execute(run, files, outputs, write)
        beside.write(staging)
        for file in files:
            _verify(staging.folder / file.name, file)
        # A change during the merge may have mixed old and new values: nothing is published then.
        for source in _input_files(report.plan):
            source.check_unchanged()
        report = _measured(report, fidelity)
        approved(report, write.approve)
        staging.publish()
    return report


def _measured(report: MergeReport, fidelity: "dict[str, Fidelity]") -> MergeReport:
    # With a NaN or an infinity there is no fidelity to report, and JSON has no such numbers.
    finite = {
        name: fidelity[name]
        for name in report.plan.tensors
        if name in fidelity and math.isfinite(fidelity[name].relative_error)
    }
    return replace(report, fidelity=finite, idle=tuple(idle_parts(report.plan, finite)))


def _verify(path: Path, file: PlannedFile) -> None:
    """Read a finished file's header back, and compare it with the planned layout."""
    written = {t.name: t for t in InputFile(path).read_header().tensors}
    if written != dict(file.layout.tensors):
        raise StorageError(f"{path}: was not written as planned; check the disk")


def _input_files(plan: MergePlan) -> Iterator[InputFile]:
    for shard in plan.base.shards:
        yield shard.file


def _made(plan: MergePlan, files: Sequence[PlannedFile], options: MergeOptions) -> dict[str, bytes]:
    """The generated files: the index, if the output has one, and the config, if it changes."""
    made = dict(filter(None, [index_file(plan, files)]))
    if (config := corrected_config(plan, options.dtype)) is not None:
        made["config.json"] = config
    return made
