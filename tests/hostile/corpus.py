"""Containers that break one rule of the format each, and odd ones that break none."""

import json
from dataclasses import dataclass
from typing import Any, Final

LIMIT: Final = 100_000_000
#: The tensor that is at fault, wherever one is.
NAME: Final = "layer.weight"


@dataclass(frozen=True)
class Fault:
    """A file that has to be refused, and words that the refusal has to hold."""

    data: bytes
    says: str


def container(
    header: bytes | str | dict[str, Any], data: bytes = b"", *, length: int | None = None
) -> bytes:
    """A file of this header and data; `length` is a false one for the header."""
    text = json.dumps(header) if isinstance(header, dict) else header
    text = text.encode() if isinstance(text, str) else text
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4), **extra: Any) -> str:
    """The JSON of one tensor's entry."""
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets, **extra})


def one(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4), **extra: Any) -> bytes:
    """A file of one entry and four bytes of data."""
    return container(f'{{"{NAME}": {entry(dtype, shape, offsets, **extra)}}}', bytes(4))


def raw(fields: str) -> bytes:
    """A file of one entry whose fields are written like this, and four bytes of data."""
    return container(f'{{"{NAME}": {{{fields}}}}}', bytes(4))


def several(*entries: tuple[str, str], size: int) -> bytes:
    """A file of these entries in this order, and `size` bytes of data."""
    fields = ", ".join(f'"{name}": {text}' for name, text in entries)
    return container(f"{{{fields}}}", bytes(size))


def with_metadata(metadata: str) -> bytes:
    """A file of one good entry and this metadata."""
    return container(f'{{"__metadata__": {metadata}, "{NAME}": {entry()}}}', bytes(4))


_GOOD = f'{{"{NAME}": {entry()}}}'
_SHAPE, _OFFSETS = '"shape": [1]', '"data_offsets": [0, 4]'

#: Faults of the file as a whole: the message names the file.
BROKEN_FILES: Final = {
    "empty": Fault(b"", "0 bytes"),
    "seven bytes": Fault(bytes(7), "7 bytes"),
    "length over the limit": Fault(container("{}", length=LIMIT + 1), "100000001 bytes long"),
    "length past the end": Fault(container("{}", length=3), "truncated"),
    "length at the limit, past the end": Fault(container("{}", length=LIMIT), "truncated"),
    "length of 2^63": Fault(container("{}", length=2**63), "at most 100000000"),
    "length that overflows": Fault(container("{}", length=2**64 - 1), "at most 100000000"),
    "length of 0": Fault(container(""), "does not begin with '{'"),
    "no JSON at all": Fault(container(bytes(40)), "does not begin with '{'"),
    "a pickle": Fault(b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01.", "but a pickle"),
    "a zip": Fault(b"PK\x03\x04\x14\0\0\0\x08" + bytes(60), "but a zip archive; unpack it"),
    "a web page": Fault(b"<!DOCTYPE html><html></html>", "but a web page (HTML)"),
    "a Git LFS pointer": Fault(b"version https://git-lfs.github.com/spec/v1\n", "but a Git LFS"),
    "an array": Fault(container("[]"), "does not begin with '{'"),
    "a leading space": Fault(container(" {}"), "does not begin with '{'"),
    "a leading newline": Fault(container("\n{}"), "does not begin with '{'"),
    "a byte order mark": Fault(container("\ufeff{}"), "does not begin with '{'"),
    "not UTF-8": Fault(container(b'{"\xff": 1}'), "not UTF-8 (byte 2)"),
    "overlong UTF-8": Fault(container(b'{"\xc0\xae": 1}'), "not UTF-8"),
    "a surrogate in UTF-8": Fault(container(b'{"\xed\xa0\x80": 1}'), "not UTF-8"),
    "half a surrogate pair": Fault(container(rf'{{"\ud800": {entry()}}}', bytes(4)), "surrogate"),
    "half a pair in metadata": Fault(with_metadata(r'{"a": "\udc00"}'), "surrogate"),
    "cut JSON": Fault(container(_GOOD[:-1], bytes(4)), "not valid JSON"),
    "a trailing comma": Fault(container(f"{_GOOD[:-1]},}}", bytes(4)), "not valid JSON"),
    "single quotes": Fault(container("{'a': 1}"), "not valid JSON"),
    "two objects": Fault(container("{}{}"), "not valid JSON"),
    "padding of zeros": Fault(container(b"{}\0\0\0\0\0\0"), "not valid JSON"),
    "a control character": Fault(container(b'{"a\x01": 1}'), "not valid JSON"),
    "a NaN": Fault(container('{"a": NaN}'), "NaN is not JSON"),
    "an infinity": Fault(container('{"a": -Infinity}'), "-Infinity is not JSON"),
    "a number of 5000 digits": Fault(container(f'{{"a": {"9" * 5000}}}'), "not valid JSON"),
    "nested arrays": Fault(container('{"a": ' + "[" * 100_000), "not valid JSON"),
    "nested objects": Fault(container('{"a": ' * 100_000), "not valid JSON"),
    "a tensor twice": Fault(
        several((NAME, entry()), (NAME, entry(offsets=(4, 8))), size=8), f"{NAME!r} appears twice"
    ),
    "a tensor twice, alike": Fault(
        several((NAME, entry()), (NAME, entry()), size=4), f"{NAME!r} appears twice"
    ),
    "a tensor twice, once escaped": Fault(
        several((NAME, entry()), (r"\u006cayer.weight", entry()), size=4), "appears twice"
    ),
    "metadata twice": Fault(
        several(("__metadata__", "{}"), ("__metadata__", "{}"), size=0), "'__metadata__' appears"
    ),
    "a metadata key twice": Fault(with_metadata('{"a": "1", "a": "1"}'), "'a' appears twice"),
    "a list for metadata": Fault(with_metadata("[]"), "__metadata__ must map strings to strings"),
    "a number in metadata": Fault(with_metadata('{"a": 1}'), "must map strings to strings"),
    "null in metadata": Fault(with_metadata('{"a": null}'), "must map strings to strings"),
    "an object in metadata": Fault(with_metadata('{"a": {}}'), "must map strings to strings"),
    "bytes after the last tensor": Fault(one() + b"\0", "1 byte follows the last tensor"),
    "bytes after no tensor": Fault(container("{}", b"\0"), "1 byte follows the last tensor"),
    "data cut by a byte": Fault(one()[:-1], "truncated"),
    "data missing": Fault(one()[:-4], "truncated"),
}

#: JSON that is no dtype, and no pair of offsets.
NO_DTYPES: Final[list[Any]] = [
    *("F33", "f32", "F32 ", "", "torch.float32", None, 3, ["F32"], {}, "F" * 9999),
]
NO_OFFSETS: Final[list[Any]] = [
    *(None, 4, "0,4", {}, [], [0], [0, 4, 4], [[0], [4]]),
    *([-4, 0], [0.0, 4.0], [False, 4], ["0", "4"], [0, None], [2**63, 2**63 + 4]),
]

#: Faults of one entry: the message names the file and the tensor.
BROKEN_ENTRIES: Final = {
    "null": Fault(container(f'{{"{NAME}": null}}'), "must have dtype"),
    "a list": Fault(container(f'{{"{NAME}": ["F32", [1], [0, 4]]}}', bytes(4)), "must have dtype"),
    "no field": Fault(container(f'{{"{NAME}": {{}}}}'), "must have dtype"),
    "no offsets": Fault(raw(f'"dtype": "F32", {_SHAPE}'), "must have dtype"),
    "an extra field": Fault(one(strides=[1]), "must have dtype, shape and data_offsets, only"),
    "metadata inside": Fault(one(__metadata__={}), "must have dtype, shape and data_offsets, only"),
    **{f"dtype {dtype!r}": Fault(one(dtype), "unknown dtype") for dtype in NO_DTYPES},
    **{
        f"shape {shape!r:.20}": Fault(one(shape=shape), "the shape is not a list of sizes")
        for shape in (
            *(None, 1, "1", {}, {"0": 1}, [[1]], ["1"], [None]),
            *([-1], [-1, -1], [1.0], [1.5], [1e0], [True], [2**63], [2**64], [2**64 + 1]),
            *([1] * 65, [1] * 100_000, [0] * 100_000),
        )
    },
    "a size of -0": Fault(raw(f'"dtype": "F32", "shape": [1, -0], {_OFFSETS}'), "list of sizes"),
    **{
        f"product {shape}": Fault(one(shape=shape), "overflows")
        for shape in (
            *([2**62, 4], [2**32, 2**32], [2**62] * 64, [2**63 - 1], [2**61]),
            *([2**40, 2**40, 0], [0, 2**40, 2**40]),
        )
    },
    **{
        f"{dtype} {shape} does not fill bytes": Fault(
            one(dtype, shape, (0, 4)), "does not fill bytes"
        )
        for dtype, shape in (("F4", [1]), ("F4", [3, 3]), ("F6_E2M3", [3]), ("F6_E3M2", [2]))
    },
    **{
        f"offsets {offsets!r}": Fault(one(offsets=offsets), "must be two positions")
        for offsets in NO_OFFSETS
    },
    "offsets too wide": Fault(one(offsets=(0, 8)), "takes 4 bytes, data_offsets give 8"),
    "offsets too narrow": Fault(one(offsets=(0, 3)), "takes 4 bytes, data_offsets give 3"),
    "offsets backwards": Fault(one(offsets=(4, 0)), "takes 4 bytes, data_offsets give -4"),
    "no room for a scalar": Fault(one(shape=(), offsets=(0, 0)), "takes 4 bytes"),
    "room for nothing": Fault(one(shape=(0,)), "takes 0 bytes, data_offsets give 4"),
    "a gap before": Fault(one(offsets=(4, 8)) + bytes(4), "leaves a gap"),
    "a gap between": Fault(
        several(("a", entry()), (NAME, entry(offsets=(8, 12))), size=12), "leaves a gap"
    ),
    "an overlap": Fault(
        several(("a", entry()), (NAME, entry(offsets=(2, 6))), size=6), "overlaps the tensor before"
    ),
    "the same bytes": Fault(
        several(("a", entry()), (NAME, entry()), size=4), "overlaps the tensor before"
    ),
    "nothing, inside another": Fault(
        several(("a", entry()), (NAME, entry(shape=(0,), offsets=(2, 2))), size=4), "overlaps"
    ),
    "nothing, beyond the end": Fault(
        several(("a", entry()), (NAME, entry(shape=(0,), offsets=(5, 5))), size=4), "leaves a gap"
    ),
    "a field twice": Fault(raw(f'"dtype": "U8", "dtype": "F32", {_SHAPE}, {_OFFSETS}'), "'dtype'"),
    "a shape twice": Fault(raw(f'"dtype": "F32", {_SHAPE}, {_SHAPE}, {_OFFSETS}'), "'shape'"),
}

_EMPTY = [(f"empty {n}", entry(shape=(n, 0), offsets=(4, 4))) for n in range(3)]

#: Odd and legal.
ACCEPTED: Final = {
    "no tensor": container("{}"),
    "no tensor, padded": container("{}" + " " * 62),
    "metadata only": container('{"__metadata__": {"format": "pt", "": ""}}'),
    "metadata last": container(f'{{"{NAME}": {entry()}, "__metadata__": {{"a": "b"}}}}', bytes(4)),
    "no metadata": one(),
    "empty metadata": with_metadata("{}"),
    "null metadata, as MLX writes it": with_metadata("null"),
    "white space": container(f'{{\n\t"{NAME}" :\r {entry()} }} \n', bytes(4)),
    "fields in another order": raw(f'{_OFFSETS}, {_SHAPE}, "dtype": "F32"'),
    "a scalar": one(shape=()),
    "64 dimensions": one(shape=(1,) * 64),
    "several empty tensors": several(*_EMPTY, (NAME, entry()), size=4),
    "an empty tensor first": several(
        (NAME, entry()), ("a", entry(shape=(0,), offsets=(0, 0))), size=4
    ),
    "an empty tensor of a large size": one(shape=(2**40, 0), offsets=(0, 0))[:-4],
    "tensors in another order": several((NAME, entry(offsets=(4, 8))), ("a", entry()), size=8),
    "half bytes that fill bytes": one("F4", (2, 4)),
    "six bits that fill bytes": one("F6_E2M3", (4,), (0, 3))[:-1],
    **{
        f"the name {name!r}": several((json.dumps(name)[1:-1], entry()), size=4)
        for name in ("", "\n\x1b[2J\u202e", "../../etc/passwd", "\N{GRINNING FACE}", "n" * 10_000)
    },
}
