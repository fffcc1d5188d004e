"""Write an adapter's tensors to its file, checked; neighbouring tensors are handled together."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from loratools.errors import NonFiniteError, StorageError, shorten
from loratools.io.bundle import Bundle
from loratools.io.dtypes import FACTORS
from loratools.io.file import InputFile
from loratools.io.source import Source, Stored, as_bytes
from loratools.io.values import is_finite, widened
from loratools.io.writer import Layout, OutputFile, lay_out
from loratools.running.parallel import Map

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
        # A list, since `any` by itself would stop at the first True and leave runs unwritten.
        has_zeros = any(list(each(partial(_write, file), _runs(bundle))))
        if bundle.seal is not None:
            # Hashes of the tensors are known only now; the header has placeholders of their length.
            layout = layout_of(bundle, {**bundle.metadata, **bundle.seal(InputFile(path))})
            file.write_header(layout)
        file.sync()
    finally:
        file.close()
    written = InputFile(path)
    if written.size != layout.size or written.read(0, len(layout.header)) != layout.header:
        raise StorageError(f"{path}: was not written as planned; check the disk")
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


def _follows(source: Source, before: Source) -> bool:
    """Whether a stored tensor begins where another one, of the same file and dtype, ends."""
    return (
        isinstance(source, Stored)
        and isinstance(before, Stored)
        and source.file is before.file
        and source.begin == before.end
        and source.dtype == before.dtype
    )


def _write(file: OutputFile, run: _Run) -> bool:
    """Write a run of tensors; return whether one of them is all zeros."""
    name, first = run[0]
    source = _joined([source for _, source in run if isinstance(source, Stored)] or [first])
    if source.dtype not in FACTORS and isinstance(source, Stored):
        # Carried along as bytes: torch does not have all of these dtypes.
        file.copy(source.file, source.begin, file.layout.tensors[name].begin, source.nbytes)
        return False
    tensor = source.read().contiguous()
    if source.dtype in FACTORS and not is_finite(tensor):
        culprit = next(name for name, source in run if not is_finite(source.read()))
        raise NonFiniteError(f"{shorten(culprit)}: holds a NaN or an infinity (in {source.dtype})")
    file.write_from(name, as_bytes(tensor))
    return _has_zeros(widened(tensor).flatten(), [math.prod(source.shape) for _, source in run])


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
