"""Archives of numpy arrays (`.npz`), read by their headers, and an array only when it is needed.

An array that is not compressed is read from its place in the archive, like a tensor of a
safetensors file. Arrays of Python objects are pickles, and are refused.
"""

import io
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, final

from loratools.errors import FormatError, UnsupportedError, counted
from loratools.io.computed import rearranged
from loratools.io.dtypes import nbytes, to_torch
from loratools.io.file import InputFile
from loratools.io.sniffed import UNPACK
from loratools.io.source import Source, Stored, as_bytes, transposed

if TYPE_CHECKING:
    from torch import Tensor

_ARRAY = ".npy"
#: Numpy's names of dtypes in little-endian order. MLX stores bfloat16, which numpy does not have,
#: as two bytes without a meaning.
_DTYPES = {
    "|b1": "BOOL", "|u1": "U8", "|i1": "I8", "<u2": "U16", "<i2": "I16", "<u4": "U32",
    "<i4": "I32", "<u8": "U64", "<i8": "I64", "<f2": "F16", "<f4": "F32", "<f8": "F64",
    "<c8": "C64", "|V2": "BF16",
}  # fmt: skip
#: The bytes of a member's own header that come before its name, and where the lengths of the name
#: and of what follows it stand among them.
_MEMBER_HEADER, _NAME_LENGTH, _EXTRA_LENGTH = 30, slice(26, 28), slice(28, 30)
#: More than numpy needs for the header of any array of numbers.
_HEADER_LIMIT = 2**14


def read_npz(file: InputFile) -> dict[str, Source]:
    """The arrays of an archive by their names, in its order.

    Raises:
        FormatError: the archive or an array in it is malformed.
        UnsupportedError: an array holds Python objects, or numbers of a dtype that is not known.
    """
    known = file.sniffed()
    if known is not None and known.sort != "zip":
        raise FormatError(
            f"{file.where}: not an archive of numpy arrays but {known.name}", hint=known.advice
        )
    try:
        with zipfile.ZipFile(_Reader(file)) as archive:
            members = archive.infolist()
            names = [_name(file, member) for member in members]
            if len(set(names)) < len(names):
                raise FormatError(f"{file.where}: has two arrays of the same name")
            return {
                name: _array(file, archive, member, name)
                for name, member in zip(names, members, strict=True)
            }
    # zipfile raises NotImplementedError for what it cannot read, and ValueError for odd offsets.
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, ValueError, EOFError) as error:
        reason = str(error).lower()
        raise FormatError(
            f"{file.where}: not a whole archive of arrays ({reason})", hint="download it again"
        ) from error


def _name(file: InputFile, member: zipfile.ZipInfo) -> str:
    if not member.filename.endswith(_ARRAY):
        raise FormatError(
            f"{file.where}: a zip archive in which {member.filename!r:.120} is not an array",
            hint=UNPACK,
        )
    if member.flag_bits & 1:
        raise UnsupportedError(f"{file.where}: {member.filename!r:.120} is encrypted")
    return member.filename.removesuffix(_ARRAY)


def _array(file: InputFile, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Source:
    """The array of a member; one that is not compressed is read from its place in the archive."""
    where = f"{file.where}: {name!r:.120}"
    with archive.open(member) as opened:
        dtype, shape, is_fortran = _header(opened, where)
        begin = opened.tell()
    size = member.file_size - begin
    if size != nbytes(dtype, shape):
        raise FormatError(
            f"{where}: has {counted(size, 'byte')}, where {dtype} {list(shape)} has "
            f"{nbytes(dtype, shape)}"
        )
    # An array in Fortran's order is that of the reversed shape with its axes reversed.
    stored = shape[::-1] if is_fortran else shape
    source: Source
    if member.compress_type == zipfile.ZIP_STORED:
        first = _data(file, member) + begin
        if first + size > file.size:
            raise FormatError(f"{where}: ends behind the end of the file")
        source = Stored(name, dtype, stored, first, first + size, file)
    else:
        source = _Compressed(name, dtype, stored, begin, member.filename, file)
    if not is_fortran or len(shape) < 2:
        return source
    return transposed(source) if len(shape) == 2 else rearranged(source, shape, _reversed)


def _header(opened: IO[bytes], where: str) -> tuple[str, tuple[int, ...], bool]:
    """The dtype, the shape and whether the order is Fortran's, from the header of an array."""
    from numpy.lib import format

    try:
        version = format.read_magic(opened)
        if version != (1, 0):
            raise ValueError(f"numpy's version {version}, which is for names of fields")
        shape, is_fortran, dtype = format.read_array_header_1_0(
            opened, max_header_size=_HEADER_LIMIT
        )
    except Exception as error:  # numpy lets Python parse the header, and any of its errors out
        reason = str(error).split("\n", maxsplit=1)[0]
        raise FormatError(f"{where}: not an array: {reason}") from error
    if dtype.hasobject:
        raise UnsupportedError(f"{where}: an array of Python objects, which is a pickle")
    name = _DTYPES.get(dtype.str)
    if name is None:
        raise UnsupportedError(f"{where}: an array of the dtype {dtype.str}")
    if any(size < 0 for size in shape):
        raise FormatError(f"{where}: has the shape {list(shape)}")
    return name, tuple(int(size) for size in shape), bool(is_fortran)


def _data(file: InputFile, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin: behind its own header, whose length it states itself."""
    start = file.read(member.header_offset, _MEMBER_HEADER)
    lengths = (int.from_bytes(start[part], "little") for part in (_NAME_LENGTH, _EXTRA_LENGTH))
    return member.header_offset + _MEMBER_HEADER + sum(lengths)


def _reversed(tensor: "Tensor") -> "Tensor":
    return tensor.permute(*reversed(range(tensor.dim())))


@final
@dataclass(frozen=True)
class _Compressed:
    """An array that is compressed: all of it is decompressed each time it is read."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    member: str
    file: InputFile

    @property
    def keys(self) -> tuple[str, ...]:
        """The name of the array in its archive."""
        return (self.key,)

    def read(self) -> "Tensor":
        """The whole array."""
        import torch

        try:
            with zipfile.ZipFile(_Reader(self.file)) as archive:
                data = archive.read(self.member)[self.begin :]
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise FormatError(f"{self.file.where}: {self.key}: {error}") from error
        tensor = torch.empty(self.shape, dtype=to_torch(self.dtype))
        as_bytes(tensor)[:] = data
        return tensor

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """The entries `begin` to `end` of the first dimension; the whole array is read for them."""
        return self.read()[begin:end]


@final
class _Reader(io.RawIOBase):
    """An input file as Python's own kind of file, for zipfile."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, which is not before the file.

        zipfile looks for what may be at the end, and takes an OSError for the answer that it is not
        there: a file is too short for it.
        """
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}
        if (position := origin[whence] + offset) < 0:
            raise (OSError if whence == io.SEEK_END else ValueError)(f"position {position}")
        self._position = position
        return position

    def tell(self) -> int:
        """The position."""
        return self._position

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        """Fill the buffer as far as the file goes."""
        size = max(0, min(len(buffer), self._file.size - self._position))
        self._file.read_into(memoryview(buffer)[:size], self._position)
        self._position += size
        return size
