"""Carry out a merge plan: distribute the steps of all files to workers."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from loratools.arguments import checked_fields
from loratools.errors import StorageError
from loratools.io.file import InputFile
from loratools.io.hashes import placeholders, sealed_header
from loratools.io.streaming import stream
from loratools.io.writer import OutputFile
from loratools.merging.arrange import PlannedFile
from loratools.merging.report import MergeReport
from loratools.merging.steps import copy_steps, edit_steps
from loratools.merging.touched import add_to
from loratools.running.parallel import single_threaded_torch
from loratools.running.steps import Run, interleaved, workers
from loratools.showing.shown import Brief

if TYPE_CHECKING:
    from loratools.merging.steps import Measured
    from loratools.merging.touched import Kept


#: Threads beside one a core, where writing waits for the disk: others compute meanwhile.
_WAITING = 3


@checked_fields
@final
@dataclass(frozen=True, repr=False)
class WriteOptions(Brief):
    """How an output is written; `jobs`, `executor` and `progress` do not affect its bytes.

    Attributes:
        max_shard_bytes: split the weights into files of at most this size: a number of bytes, or a
            text such as `"5GB"`; None keeps the base's files.
        seed: the seed of the random choices of stochastic rounding; None rounds to nearest.
        allow_nonfinite: write NaNs and infinities too, which are refused otherwise.
        overwrite: replace an output that exists.
        only_changed: write an overlay, with only the tensors that change.
        jobs: the number of threads; None is one for each core, and three more to wait for the disk.
        executor: runs the steps in place of a pool of threads; `jobs` is then not used.
        progress: called with the bytes done and the bytes in all: before the first is written, then
            at least ten times a second. What it raises stops the merge.
        approve: called with the report before the output has its name, or at the end of a dry run.
            What it raises leaves no output.

    Example:
        >>> import loratools
        >>> base, adapter = "fixtures/stories260k", "fixtures/adapters/plain"
        >>> write = loratools.WriteOptions(max_shard_bytes="600kB")
        >>> len(loratools.merge(base, adapter, write=write).files)
        2
    """

    max_shard_bytes: int | str | None = None
    seed: int | None = None
    allow_nonfinite: bool = False
    overwrite: bool = False
    only_changed: bool = False
    jobs: int | None = None
    executor: Executor | None = None
    progress: Callable[[int, int], None] | None = None
    approve: Callable[[MergeReport], object] | None = None


def execute(
    run: "Run[Measured | None]",
    files: Sequence[PlannedFile],
    outputs: Sequence[OutputFile],
    write: WriteOptions,
) -> "dict[str, Kept]":
    """Run the steps of all files, and make each file durable while the others are written.

    Copies begin before torch is imported, which takes longer than many of them. A merge that only
    copies does not import it.
    """
    waiting = _WAITING if any(output.is_direct for output in outputs) else 0
    with (
        workers(write.executor, write.jobs, waiting=waiting) as pool,
        ThreadPoolExecutor(1) as syncer,
    ):
        try:
            # Interleaved: a file system locks a file that is written to, so that two workers on two
            # files are twice as fast as on one.
            pairs = list(zip(files, outputs, strict=True))
            run.submit(pool, interleaved([copy_steps(*pair) for pair in pairs]))
            with ExitStack() as computing:
                if not all(tensor.is_copied for file in files for tensor in file.tensors):
                    computing.enter_context(single_threaded_torch())
                    from loratools.io.rounding import Rounding

                    rounding = Rounding(write.seed, write.allow_nonfinite)
                    run.submit(pool, interleaved([edit_steps(*pair, rounding) for pair in pairs]))
                run.collect(outputs, syncer, _finish)
        except BrokenExecutor as error:
            raise StorageError("a worker process has died, perhaps for lack of memory") from error
        except BaseException:
            run.cancel()
            raise
        finally:
            for output in outputs:
                output.close()
    return _by_tensor(run.results())


def _finish(output: OutputFile) -> None:
    """Make the hashes in a full file's metadata true, and then the file durable.

    While it is read to be hashed, the system writes it to the disk, for which a sync waits.
    """
    written = InputFile(output.path)
    if placeholders(written.read_header().metadata):
        stream([written])
        output.write_header(replace(output.layout, header=sealed_header(written)))
    output.sync()


def _by_tensor(measured: "Iterable[Measured | None]") -> "dict[str, Kept]":
    """What was measured of each tensor, by name: the sums over its steps."""
    sums: dict[str, Kept] = {}
    for part in measured:
        if part is not None:
            name, kept = part
            for changes, fidelity in kept.items():
                add_to(sums.setdefault(name, {}), changes, fidelity)
    return sums
