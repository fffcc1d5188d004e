"""Write an adapter's tensors to its file, checked; neighbouring tensors are handled together."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from loratools.errors import NonFiniteError, StorageError, shorten
from loratools.io.bundle import Bundle
from loratools.io.computed import Computed
from loratools.io.dtypes import FACTORS, FLOATS, nbytes
from loratools.io.file import InputFile
from loratools.io.finite import is_finite_throughout, is_zero_throughout
from loratools.io.source import Named, Source, Stored, as_bytes
from loratools.io.values import is_finite, widened
from loratools.io.writer import Layout, OutputFile, lay_out
from loratools.running.share import Map, here, split
from loratools.typed import command, valued

if TYPE_CHECKING:
    from torch import Tensor

#: A run of neighbouring tensors, read and written at once, grows until it has this many bytes.
_RUN_BYTES = 2**20
_Run = Sequence[tuple[str, Source]]


def layout_of(bundle: Bundle, metadata: Mapping[str, str] | None = None) -> Layout:
    """The layout of one file with the bundle's tensors, and with other metadata if it is given."""
    tensors = [(name, s.dtype, s.shape) for name, s in bundle.tensors.items()]
    return lay_out(tensors, bundle.metadata if metadata is None else metadata)


def write_tensors(bundle: Bundle, path: Path, layout: Layout, each: Map) -> bool:
    """Write a bundle's tensors to a file of this layout; return whether one of them is all zeros.

    The file's header is read back and compared with the layout.

    Raises:
        NonFiniteError: a tensor is not finite in the dtype it is stored in.
        StorageError: the file cannot be written, or was not written as planned.
    """
    file = OutputFile(path, layout)
    try:
        stored, others = _parted(_runs(bundle))
        copying, computing = split(each, len(stored), 2 * len(others))
        # Each thread of `each` imports torch, which stored tensors do not need. A list, since `any`
        # by itself would stop at the first True and leave runs unwritten.
        copied = here(copying)(partial(_copy, file), stored)
        has_zeros = any([*copied, *computing(partial(_write, file), others)])
        if bundle.seal is not None:
            # Hashes of the tensors are known only now; the header has placeholders of their length.
            layout = layout_of(bundle, {**bundle.metadata, **bundle.seal(InputFile(path))})
            file.write_header(layout)
        file.sync()
    finally:
        file.close()
    written = InputFile(path)
    if written.size != layout.size or written.read(0, len(layout.header)) != layout.header:
        raise StorageError(f"{path}: was not written as planned", hint="check the disk")
    return has_zeros


def _runs(bundle: Bundle) -> Iterator[_Run]:
    """Group the tensors, in their order, into runs that are contiguous in their own file too."""
    run: list[tuple[str, Source]] = []
    nbytes = 0
    for item in bundle.tensors.items():
        if run and not (_follows(item[1], run[-1][1]) and nbytes < _RUN_BYTES):
            yield run
            run, nbytes = [], 0
        run.append(item)
        nbytes += item[1].nbytes if isinstance(item[1], Stored) else 0
    if run:
        yield run


def _parted(runs: Iterable[_Run]) -> tuple[list[_Run], list[_Run]]:
    """The runs that are copied from a file without torch, and the others."""
    parts: tuple[list[_Run], list[_Run]] = ([], [])
    for run in runs:
        source = run[0][1]
        # torch reads the 8-bit floats, whose bits are not checked without it.
        is_copied = source.dtype in FLOATS or source.dtype not in FACTORS
        parts[0 if is_copied and isinstance(source, Stored) else 1].append(run)
    return parts


def _follows(source: Source, before: Source) -> bool:
    """Whether a stored tensor begins where another one, of the same file and dtype, ends."""
    return (
        isinstance(source, Stored)
        and isinstance(before, Stored)
        and source.file is before.file
        and source.begin == before.end
        and source.dtype == before.dtype
    )


def _copy(file: OutputFile, run: _Run) -> bool:
    """Copy a run of stored tensors, without torch; return whether one of them is all zeros."""
    name = run[0][0]
    source = _joined([source for _, source in run])
    assert isinstance(source, Stored), name
    if source.dtype not in FACTORS:
        # Carried along as bytes: nothing is known of what these dtypes mean.
        file.copy(source.file, source.begin, file.layout.tensors[name].begin, source.nbytes)
        return False
    numbers = bytearray(source.nbytes)
    source.file.read_into(memoryview(numbers), source.begin)
    ends = accumulate(nbytes(stored.dtype, stored.shape) for _, stored in run)
    spans = list(pairwise((0, *ends)))
    if not is_finite_throughout(numbers, source.dtype):
        finite = [is_finite_throughout(numbers[b:e], source.dtype) for b, e in spans]
        raise _not_finite(run[finite.index(False)][0], source.dtype)
    file.write_from(name, memoryview(numbers))
    return any(is_zero_throughout(numbers, source.dtype, *span) for span in spans)


def _write(file: OutputFile, run: _Run) -> bool:
    """Compute and write a run of tensors; return whether one of them is all zeros."""
    name, first = run[0]
    source = _joined([source for _, source in run if isinstance(source, Stored)] or [first])
    tensor = source.read().contiguous()
    if source.dtype in FACTORS and not is_finite(tensor):
        name, culprit = next((n, source) for n, source in run if not is_finite(source.read()))
        culprit = culprit.source if isinstance(culprit, Named) else culprit
        if isinstance(culprit, Computed) and all(is_finite(s.read()) for s in culprit.sources):
            raise NonFiniteError(
                f"{shorten(name)}: has numbers that are too large for {source.dtype}",
                tensor=name,
                hint=f"a wider dtype holds them, as in `{command('convert', valued('dtype'))}`",
            )
        raise _not_finite(name, source.dtype)
    file.write_from(name, as_bytes(tensor))
    return _has_zeros(widened(tensor).flatten(), [math.prod(source.shape) for _, source in run])


def _not_finite(name: str, dtype: str) -> NonFiniteError:
    return NonFiniteError(f"{shorten(name)}: holds a NaN or an infinity (in {dtype})", tensor=name)


def _has_zeros(values: "Tensor", sizes: Sequence[int]) -> bool:
    """Whether one of several tensors is all zeros; `values` has their elements one after another.

    `sizes` are the tensors' numbers of elements.
    """
    import torch

    # Most runs contain no zero at all, and one pass finds that out.
    return not values.all() and any(not piece.any() for piece in torch.split(values, list(sizes)))


def _joined(sources: Sequence[Source]) -> Source:
    """The only source; or contiguous stored tensors as one flat tensor."""
    first, last = sources[0], sources[-1]
    if len(sources) == 1 or not (isinstance(first, Stored) and isinstance(last, Stored)):
        return first
    elements = sum(math.prod(source.shape) for source in sources)
    return first._replace(shape=(elements,), end=last.end)
