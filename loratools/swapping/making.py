"""Make what a swap needs before it may change a model: original bytes, and new ones, on disk."""

import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from loratools.errors import StorageError
from loratools.io.dtypes import nbytes
from loratools.io.failures import storage_errors
from loratools.io.file import InputFile
from loratools.io.source import Stored
from loratools.io.writer import OutputFile, lay_out
from loratools.merging.arrange import PlannedFile
from loratools.merging.execute import WriteOptions, execute
from loratools.merging.plan import MergePlan, PlannedTensor
from loratools.running.share import Span
from loratools.running.steps import Run
from loratools.swapping.each import on_each
from loratools.swapping.journal import Journal
from loratools.swapping.phases import KEEPING, MAKING
from loratools.swapping.rewriting import digests, tensors_in

if TYPE_CHECKING:
    from loratools.merging.steps import Measured
    from loratools.merging.touched import Kept

_SLACK_BYTES = 2**20


def check_space(journal: Journal, new: Iterable[Stored], changed: Iterable[PlannedTensor]) -> None:
    """Check that there is room for originals and new tensors.

    The new ones are counted twice: where a file system shares blocks between copies, as XFS and
    btrfs do, a range that is rewritten takes new blocks.

    Raises:
        StorageError: there is too little.
    """
    needed = sum(tensor.nbytes for tensor in new) + _SLACK_BYTES
    needed += 2 * sum(nbytes(tensor.dtype, tensor.shape) for tensor in changed)
    with storage_errors(journal.folder):
        free = shutil.disk_usage(journal.folder).free
    if needed > free:
        raise StorageError(
            f"{journal.folder}: {needed} bytes are needed for original and new tensors, and {free} "
            f"are free on that file system",
            hint="make room there",
        )


def keep_originals(
    journal: Journal, tensors: Sequence[Stored], span: Span
) -> tuple[str, dict[str, str]]:
    """Copy tensors into a new file of the journal; return its name, and their SHA-256 by name.

    Raises:
        StorageError: it cannot be written, or the model changes meanwhile.
    """
    name = journal.new_name("originals")
    path = journal.folder / name
    output = OutputFile(path, lay_out([(t.name, t.dtype, t.shape) for t in tensors], {}))
    copying, hashing, verifying = span.split(*KEEPING)
    try:
        on_each(partial(_copy, output), tensors, journal.jobs, copying)
        output.sync()
    finally:
        output.close()
    known = digests({tensor.name: tensor for tensor in tensors}, journal.jobs, hashing)
    if digests(tensors_in(InputFile(path)), journal.jobs, verifying) != known:
        raise StorageError(f"{path}: was not written as planned", hint="check the disk")
    return name, known


def make_new(
    journal: Journal, plan: MergePlan, write: WriteOptions, span: Span
) -> "tuple[dict[str, tuple[str, str]], dict[str, Kept]]":
    """Compute the changed tensors of a plan into new files of the journal.

    Returns, by the tensor's name, the name of its file and its SHA-256; and what was kept of
    its update.

    Raises:
        NonFiniteError: a result is not finite.
        StorageError: a file cannot be written.
    """
    changed = {tensor.name: tensor for tensor in plan.changed}
    groups = [[changed[t.name] for t in s.tensors if t.name in changed] for s in plan.base.shards]
    files, outputs = [], []
    for tensors in filter(None, groups):
        layout = lay_out([(t.name, t.dtype, t.shape) for t in tensors], {})
        files.append(PlannedFile(journal.new_name("next"), tuple(tensors), layout))
        outputs.append(OutputFile(journal.folder / files[-1].name, layout))
    computing, hashing = span.split(*MAKING)
    sizes = [file.layout.size - len(file.layout.header) for file in files]
    run: Run[Measured | None] = Run(sum(sizes), computing.tell)
    kept = execute(run, files, outputs, write)
    made: dict[str, tuple[str, str]] = {}
    for file, part in zip(files, hashing.split(*sizes), strict=True):
        stored = tensors_in(InputFile(journal.folder / file.name))
        for name, known in digests(stored, journal.jobs, part).items():
            made[name] = file.name, known
    return made, kept


def _copy(output: OutputFile, tensor: Stored) -> None:
    offset = output.layout.tensors[tensor.name].begin
    output.copy(tensor.file, tensor.begin, offset, tensor.nbytes)
