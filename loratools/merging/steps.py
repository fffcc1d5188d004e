"""The steps of a merge: copies and edits, each writing its own bytes of an output file."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from loratools.io.file import InputFile
from loratools.io.source import Stored, as_bytes, forget_rows
from loratools.io.writer import OutputFile
from loratools.merging.arrange import PlannedFile
from loratools.merging.plan import PlannedTensor
from loratools.merging.touched import add_to, changing
from loratools.running.parallel import single_threaded_torch

if TYPE_CHECKING:
    from loratools.io.rounding import Rounding
    from loratools.merging.touched import Kept

    #: The name of a tensor, and how much some of its rows kept of its update.
    Measured = tuple[str, Kept]

#: A copy is cut into pieces of this size, so that several workers share it.
_COPY_BYTES = 64 * 2**20
#: An edit of this many blocks is one step: enough to pay for reading the factors.
_SPAN_BLOCKS = 16


@final
@dataclass(frozen=True)
class CopyStep:
    """A range of bytes that is copied from an input file to the output unchanged."""

    output: OutputFile
    source: InputFile
    begin: int
    offset: int
    nbytes: int

    def run(self) -> None:
        """Copy the bytes, in the kernel if it can."""
        self.output.copy(self.source, self.begin, self.offset, self.nbytes)
        self.source.forget(self.begin, self.begin + self.nbytes)


@final
@dataclass(frozen=True)
class EditStep:
    """The rows `begin` to `end` of a tensor that is changed, replaced or converted."""

    output: OutputFile
    tensor: PlannedTensor
    begin: int
    end: int
    rounding: "Rounding"

    @property
    def nbytes(self) -> int:
        """The number of bytes that the step writes."""
        return (self.end - self.begin) * self._row_bytes

    @property
    def _row_bytes(self) -> int:
        from loratools.io.blocks import rows_of

        total = self.output.layout.tensors[self.tensor.name].nbytes
        return total // max(1, rows_of(self.tensor.shape))

    @property
    def _position(self) -> int:
        """The place of the first row in the output file."""
        return self.output.layout.tensors[self.tensor.name].begin + self.begin * self._row_bytes

    def run(self) -> "Measured | None":
        """Compute and write the rows, a block at a time; None if there is nothing to measure."""
        from loratools.merging.edit import edited_blocks

        kept: Kept = {}
        blocks = self.output.writing(self.tensor.name, self.begin * self._row_bytes, self.nbytes)
        with single_threaded_torch():
            for begin, block, fidelity in edited_blocks(
                self.tensor, self.begin, self.end, self.rounding, self._position
            ):
                blocks.write(as_bytes(block))
                forget_rows(self.tensor.origin, begin, begin + len(block))
                if fidelity is not None:
                    add_to(kept, changing(self.tensor, begin), fidelity)
        blocks.end()
        self.output.start_writeback(self.tensor.name, self.begin * self._row_bytes, self.nbytes)
        forget_rows(self.tensor.origin, self.begin, self.end)
        return (self.tensor.name, kept) if kept else None


def copy_steps(file: PlannedFile, output: OutputFile) -> Iterator[CopyStep]:
    """The copies that a file needs; tensors adjacent in input and output are copied together."""
    run: CopyStep | None = None
    for tensor in file.tensors:
        source = tensor.origin
        if not tensor.is_copied or not isinstance(source, Stored):
            continue
        offset = output.layout.tensors[tensor.name].begin
        if (
            run is not None
            and run.source is source.file
            and run.begin + run.nbytes == source.begin
            and run.offset + run.nbytes == offset
        ):
            run = replace(run, nbytes=run.nbytes + source.nbytes)
            continue
        if run is not None:
            yield from _cut(run)
        run = CopyStep(output, source.file, source.begin, offset, source.nbytes)
    if run is not None:
        yield from _cut(run)


def edit_steps(file: PlannedFile, output: OutputFile, rounding: "Rounding") -> Iterator[EditStep]:
    """The edits that a file needs; a change that must see the whole weight is one step."""
    from loratools.io.blocks import block_rows, rows_of, spans

    for tensor in file.tensors:
        if tensor.is_copied:
            continue
        rows = rows_of(tensor.shape)
        by_rows = all(change.delta.by_rows for change in tensor.changes)
        step = _SPAN_BLOCKS * block_rows(tensor.shape) if by_rows else max(1, rows)
        for begin, end in spans(0, rows, step):
            yield EditStep(output, tensor, begin, end, rounding)


def _cut(run: CopyStep) -> Iterator[CopyStep]:
    for done in range(0, run.nbytes, _COPY_BYTES):
        yield replace(
            run,
            begin=run.begin + done,
            offset=run.offset + done,
            nbytes=min(_COPY_BYTES, run.nbytes - done),
        )
