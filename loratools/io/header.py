"""The header of a safetensors file, read strictly and written canonically.

The safetensors library accepts some files that mean different things to different readers
(duplicate names, for one), so this check comes before anything else reads a file. Layout: 8 bytes
of length, little endian; that many bytes of JSON, padded with spaces; then the tensors, without
gaps.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from operator import itemgetter
from typing import Any, NamedTuple, final

from loratools.errors import FormatError, counted, shorten
from loratools.io.collector import collector_paused
from loratools.io.header_rules import (
    MAX_HEADER_BYTES,
    MAX_SIZE,
    are_sizes,
    check_kind,
    checked_metadata,
    checked_nbytes,
)
from loratools.io.json import json_text, parse_json, parse_json_object
from loratools.io.missing import weights_beside
from loratools.io.sniffed import sniffed

LENGTH_BYTES = 8
_FIELDS = {"dtype", "shape", "data_offsets"}
_METADATA = "__metadata__"
_METADATA_FIRST = f'{{"{_METADATA}":'
#: An entry without spaces, and without escapes in its name: name, dtype and shape, begin, end.
#: A match includes the comma after it, if another entry follows.
_ENTRY = re.compile(
    rb'"([^"]*+)":\{("dtype":"[^"]*+","shape":\[[0-9,]*+\]),'
    rb'"data_offsets":\[([0-9]*+),([0-9]*+)\]\}(?:,(?=")|\Z)'
)
#: Bytes that a JSON string has only in an escaped form, and the one that begins an escape.
_ESCAPED = bytes([*range(32), ord("\\")])
#: Different pairs of dtype and shape in a header that is read by `_ENTRY`. Each pair is parsed and
#: checked by itself, which costs as much as ten entries.
_MOST_KINDS = 10_000
#: Longer texts are not remembered, of which a few would take much memory.
_MOST_REMEMBERED = 2**19


@final
class TensorInfo(NamedTuple):
    """Where one tensor lies: bytes `begin` to `end` of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """The tensor's size in bytes."""
        return self.end - self.begin

    @property
    def parameters(self) -> int:
        """The tensor's number of elements."""
        return math.prod(self.shape)


class Columns(NamedTuple):
    """Many `TensorInfo`s as one sequence a field, which is much faster to make and to check."""

    names: Sequence[str]
    dtypes: Sequence[str]
    shapes: Sequence[tuple[int, ...]]
    begins: Sequence[int]
    ends: Sequence[int]


#: The tensors of a header in its order, and its metadata.
_Contents = tuple[Columns, Mapping[str, str]]


@final
@dataclass(frozen=True)
class Header:
    """The tensors of a file in the order of their bytes, and the file's metadata."""

    columns: Columns
    metadata: Mapping[str, str]

    @cached_property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """The tensors, each as one `TensorInfo`."""
        return tuple(map(TensorInfo, *self.columns))


def header_size(start: bytes, file_size: int, where: str) -> int:
    """The length of the JSON, from the first eight bytes of a file or more.

    Raises:
        FormatError: the file is too short for a header, states an impossible length, or is of
            another kind by its first bytes, which the message then names.
    """
    size = int.from_bytes(start[:LENGTH_BYTES], "little")
    is_short = len(start) < LENGTH_BYTES
    begins_otherwise = start[LENGTH_BYTES : LENGTH_BYTES + 1] not in (b"{", b"")
    is_other = is_short or begins_otherwise or size > MAX_HEADER_BYTES
    if is_other and (known := sniffed(start, file_size)) is not None:
        hint = weights_beside(where) or known.advice
        raise FormatError(f"{where}: not a safetensors file but {known.name}", hint=hint)
    if is_short:
        raise FormatError(
            f"{where}: not a safetensors file: {counted(len(start), 'byte')}, at least "
            f"{LENGTH_BYTES} expected",
            hint="download it again",
        )
    if size > MAX_HEADER_BYTES:
        raise FormatError(
            f"{where}: not a safetensors file: the header would be {size} bytes long "
            f"(at most {MAX_HEADER_BYTES} allowed)",
            hint="download it again",
        )
    if LENGTH_BYTES + size > file_size:
        raise FormatError(
            f"{where}: the file is truncated: its header alone has {LENGTH_BYTES + size} bytes, of "
            f"which {LENGTH_BYTES + size - file_size} are missing",
            hint="download it again",
        )
    return size


def parse_header(text: bytes, file_size: int, where: str) -> Header:
    """The header whose JSON is `text`, in a file of `file_size` bytes.

    Raises:
        FormatError: any rule of the format is broken; the message names the tensor and the rule.
    """
    data_begin = LENGTH_BYTES + len(text)
    with collector_paused():
        read = _read_compact(text, data_begin) or _read_strictly(text, data_begin, where)
        columns, metadata = read
        if not _are_contiguous(columns, data_begin, file_size):
            columns = _in_order(columns)
            _check_contiguous(columns, data_begin, file_size, where)
    return Header(columns, metadata)


def encode_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """The length and JSON of a header for `(name, dtype, shape)` in this order, padded to 8 bytes.

    The same arguments give the same bytes: metadata is sorted by key, tensors keep their order.
    """
    fields: dict[str, object] = {}
    if metadata:
        fields[_METADATA] = dict(sorted(metadata.items()))
    position = 0
    for name, dtype, shape in tensors:
        end = position + checked_nbytes(name, dtype, shape, "header")
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json_text(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _read_compact(text: bytes, data_begin: int) -> _Contents | None:
    """A fast path for the usual form of a header: as `_read_strictly`, in a third of the time.

    One regular expression reads all entries, equal pairs of dtype and shape are checked once, and
    the positions are compared with those that follow from the sizes. Returns None for any other
    form or order, and for a header that breaks a rule, which `_read_strictly` then names.
    """
    end = text.rfind(b"}")
    first = _ENTRY.search(text, 0, end)
    if first is None or text[end + 1 :].strip(b" "):
        return None
    begin = first.start()
    own = memoryview(text)[begin:end]
    entries = _known_entries(bytes(own)) if len(own) <= _MOST_REMEMBERED else _entries(own)
    if entries is None:
        return None
    try:
        metadata = _metadata_before(text[:begin].decode())
    except (FormatError, UnicodeDecodeError):
        return None
    past = [data_begin + end for end in entries.ends]
    return Columns(*entries[:3], [data_begin, *past[:-1]], past), metadata


# Adapters in a folder mostly have the same tensors, and only other metadata.
@lru_cache(maxsize=8)
def _known_entries(text: bytes) -> Columns | None:
    return _entries(text)


def _entries(text: bytes | memoryview) -> Columns | None:
    """The entries of a header in its usual form, with positions from the end of the header on."""
    parts = _ENTRY.split(text)
    between, texts, kinds, begins, ends = (parts[column::5] for column in range(5))
    joined, different = b'"'.join(texts), set(kinds)
    if any(between) or len(different) > _MOST_KINDS or joined != joined.translate(None, _ESCAPED):
        return None
    try:
        names = tuple(joined.decode().split('"'))
        known = {kind: _checked_kind(kind) for kind in different}
    except (FormatError, UnicodeDecodeError):
        return None
    if len(set(names)) != len(names) or _METADATA in names:
        return None
    dtypes, shapes, sizes = zip(*[known[kind] for kind in kinds], strict=True)
    past = list(accumulate(sizes))
    written = ",".join(map(str, past)).encode()
    if b",".join(ends) != written or past[-1] >= MAX_SIZE:
        return None
    if begins[0] != b"0" or begins[1:] != ends[:-1]:
        return None
    return Columns(names, dtypes, shapes, [0, *past[:-1]], past)


def _metadata_before(start: str) -> Mapping[str, str]:
    """The metadata of a header that begins like this, before its first entry."""
    if start == "{":
        return {}
    value = start.removeprefix(_METADATA_FIRST).removesuffix(",")
    if start != f"{_METADATA_FIRST}{value},":
        raise FormatError("not of the usual form")
    return checked_metadata(parse_json(value.encode(), ""), "")


def _checked_kind(kind: bytes) -> tuple[str, tuple[int, ...], int]:
    """The dtype, the shape and the number of bytes that the beginning of an entry states."""
    fields = parse_json_object(b"{%b}" % kind, "")
    dtype, shape = fields["dtype"], fields["shape"]
    check_kind("", dtype, shape, "")
    return dtype, tuple(shape), checked_nbytes("", dtype, tuple(shape), "")


def _read_strictly(text: bytes, data_begin: int, where: str) -> _Contents:
    fields = _parse_json(text, where)
    metadata = checked_metadata(fields.pop(_METADATA, {}), where)
    tensors = [_checked_tensor(name, entry, data_begin, where) for name, entry in fields.items()]
    return _columns(tensors), metadata


def _columns(tensors: Iterable[tuple[Any, ...]]) -> Columns:
    return Columns(*(tuple(zip(*tensors, strict=True)) or ((),) * len(Columns._fields)))


def _in_order(columns: Columns) -> Columns:
    """The columns with the tensors sorted by the positions of their bytes."""
    place = itemgetter(Columns._fields.index("begins"), Columns._fields.index("ends"))
    return _columns(sorted(zip(*columns, strict=True), key=place))


def _parse_json(text: bytes, where: str) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise FormatError(f"{where}: not a safetensors file: the header does not begin with '{{'")
    return parse_json_object(text, f"{where}: header")


def _checked_tensor(name: str, entry: object, data_begin: int, where: str) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise FormatError(
            f"{where}: {shorten(name)}: an entry must have dtype, shape and data_offsets, only",
            tensor=name,
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    check_kind(name, dtype, shape, where)
    if not are_sizes(offsets) or len(offsets) != 2:
        raise FormatError(
            f"{where}: {shorten(name)}: data_offsets must be two positions", tensor=name
        )
    begin, end = offsets
    expected = checked_nbytes(name, dtype, tuple(shape), where)
    if end - begin != expected:
        raise FormatError(
            f"{where}: {shorten(name)}: {dtype} {shape} takes {counted(expected, 'byte')}, "
            f"data_offsets give {end - begin}",
            tensor=name,
        )
    return TensorInfo(name, dtype, tuple(shape), data_begin + begin, data_begin + end)


def _are_contiguous(columns: Columns, data_begin: int, file_size: int) -> bool:
    """Whether each tensor begins where the one before it ends, as every writer stores them."""
    return [data_begin, *columns.ends] == [*columns.begins, file_size]


def _check_contiguous(columns: Columns, data_begin: int, file_size: int, where: str) -> None:
    position = data_begin
    for name, begin, end in zip(columns.names, columns.begins, columns.ends, strict=True):
        if begin != position:
            fault = "overlaps the tensor before it" if begin < position else "leaves a gap"
            raise FormatError(
                f"{where}: {shorten(name)}: {fault} (begins at {begin}, expected {position})",
                tensor=name,
            )
        position = end
    if position > file_size:
        raise FormatError(
            f"{where}: the file is truncated: {position - file_size} of its {position} bytes are "
            f"missing",
            hint="download it again",
        )
    if position < file_size:
        raise FormatError(
            f"{where}: {counted(file_size - position, 'byte follows', 'bytes follow')} the last "
            f"tensor, where none are allowed",
            hint="download it again",
        )
