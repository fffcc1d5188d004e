"""How the tensors of an adapter get into its file: checked, and neighbours together."""

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

#: Tensors that are stored side by side are read and written so many bytes at a time.
_RUN_BYTES = 2**20
_Run = Sequence[tuple[str, Source]]


def layout_of(bundle: Bundle, metadata: Mapping[str, str] | None = None) -> Layout:
    """The bytes of the bundle's tensors as one file, with other metadata if it is given."""
    tensors = [(name, s.dtype, s.shape) for name, s in bundle.tensors.items()]
    return lay_out(tensors, bundle.metadata if metadata is None else metadata)


def write_tensors(bundle: Bundle, path: Path, layout: Layout, each: Map) -> bool:
    """Write the file of a bundle's tensors, whose layout it is; whether some are zero throughout.

    Its header is read back.

    Raises:
        NonFiniteError: a tensor is not finite in the dtype it is stored in.
        StorageError: it cannot be written, or was not written as it should be.
    """
    file = OutputFile(path, layout)
    try:
        has_zeros = any(list(each(partial(_write, file), _runs(bundle))))
        if bundle.seal is not None:
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
    """The tensors in their order; those that are neighbours in their own file too, together."""
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
    """Whether a stored tensor comes right behind another one of its dtype."""
    return (
        isinstance(source, Stored)
        and isinstance(before, Stored)
        and source.file is before.file
        and source.begin == before.end
        and source.dtype == before.dtype
    )


def _write(file: OutputFile, run: _Run) -> bool:
    """Write a run; whether one of its tensors is zero throughout."""
    name, first = run[0]
    source = _joined([source for _, source in run if isinstance(source, Stored)] or [first])
    if source.dtype not in FACTORS and isinstance(source, Stored):
        file.copy(source.file, source.begin, file.layout.tensors[name].begin, source.nbytes)
        return False
    tensor = source.read().contiguous()
    if source.dtype in FACTORS and not is_finite(tensor):
        culprit = next(name for name, source in run if not is_finite(source.read()))
        raise NonFiniteError(f"{shorten(culprit)}: holds a NaN or an infinity (in {source.dtype})")
    file.write_from(name, as_bytes(tensor))
    return _has_zeros(widened(tensor).flatten(), [math.prod(source.shape) for _, source in run])


def _has_zeros(values: "Tensor", sizes: Sequence[int]) -> bool:
    """Whether one of the tensors of these sizes, whose elements follow each other, is all zeros."""
    import torch

    return not values.all() and any(not piece.any() for piece in torch.split(values, list(sizes)))


def _joined(sources: Sequence[Source]) -> Source:
    """One source, or stored neighbours as one."""
    first, last = sources[0], sources[-1]
    if len(sources) == 1 or not (isinstance(first, Stored) and isinstance(last, Stored)):
        return first
    elements = sum(math.prod(source.shape) for source in sources)
    return first._replace(shape=(elements,), end=last.end)
