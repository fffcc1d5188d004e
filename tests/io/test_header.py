"""What we write the library reads, and the other way round, for every dtype it can store."""

import ctypes
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors import TensorSpec, deserialize, safe_open, serialize

from loratools.errors import FormatError
from loratools.files.checkpoints import open_checkpoint
from loratools.io.dtypes import BITS, nbytes
from loratools.io.header import (
    Header,
    _read_compact,
    _read_strictly,
    encode_header,
    header_size,
    parse_header,
)

#: The names by which the library's writer takes dtypes; it cannot write F6 or take F4 by elements.
WRITABLE = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
#: Any text that is text: half a surrogate pair is none.
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
METADATA = st.dictionaries(NAMES, NAMES, max_size=4)


Contents = dict[str, tuple[str, tuple[int, ...], bytes]]


def tensors(dtypes: Sequence[str]) -> st.SearchStrategy[Contents]:
    """Tensors by name: dtype, shape and bytes."""

    def filled(
        dtype_and_shape: tuple[str, tuple[int, ...]],
    ) -> st.SearchStrategy[tuple[str, tuple[int, ...], bytes]]:
        dtype, shape = dtype_and_shape
        size = nbytes(dtype, shape)
        return st.tuples(st.just(dtype), st.just(shape), st.binary(min_size=size, max_size=size))

    def fills_bytes(dtype_and_shape: tuple[str, tuple[int, ...]]) -> bool:
        dtype, shape = dtype_and_shape
        elements = nbytes("U8", shape)
        return elements * BITS[dtype] % 8 == 0

    shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
    kinds = st.tuples(st.sampled_from(dtypes), shapes).filter(fills_bytes)
    names = NAMES.filter(lambda name: name != "__metadata__")
    return st.dictionaries(names, kinds.flatmap(filled), max_size=5)


def read(data: bytes) -> tuple[Contents, dict[str, str]]:
    """The tensors and the metadata of a file, as we read them."""
    size = header_size(data[:8], len(data), "file")
    header = parse_header(data[8 : 8 + size], len(data), "file")
    found = {t.name: (t.dtype, t.shape, data[t.begin : t.end]) for t in header.tensors}
    return found, dict(header.metadata)


def written(contents: Contents, metadata: dict[str, str]) -> bytes:
    described = [(name, dtype, shape) for name, (dtype, shape, _) in contents.items()]
    return encode_header(described, metadata) + b"".join(data for _, _, data in contents.values())


@given(tensors(sorted(BITS)), METADATA)
def test_what_we_write_is_what_everybody_reads(
    contents: Contents, metadata: dict[str, str]
) -> None:
    data = written(contents, metadata)
    found = {
        name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in deserialize(data)
    }
    assert found == contents
    assert read(data) == (contents, metadata)


@given(contents=tensors(sorted(BITS)), metadata=METADATA.filter(bool))
def test_the_library_reads_the_metadata_that_we_write(
    tmp_path_factory: pytest.TempPathFactory,
    contents: Contents,
    metadata: dict[str, str],
) -> None:
    path = tmp_path_factory.mktemp("header") / "file"
    path.write_bytes(written(contents, metadata))
    with safe_open(path, "np") as file:
        assert file.metadata() == metadata


@given(tensors(sorted(WRITABLE)), METADATA)
def test_what_the_library_writes_we_read(contents: Contents, metadata: dict[str, str]) -> None:
    assume(contents or metadata)
    kept = {
        name: ctypes.create_string_buffer(data, len(data)) for name, (*_, data) in contents.items()
    }
    specs = {
        name: TensorSpec(
            dtype=WRITABLE[dtype],
            shape=list(shape),
            data_ptr=ctypes.addressof(kept[name]),
            data_len=len(data),
        )
        for name, (dtype, shape, data) in contents.items()
    }
    assert read(bytes(serialize(specs, metadata))) == (contents, metadata)


@given(tensors(sorted(BITS)), METADATA)
def test_equal_arguments_give_equal_bytes_aligned_to_8(
    contents: Contents, metadata: dict[str, str]
) -> None:
    data = written(contents, metadata)
    assert data == written(contents, dict(reversed(metadata.items())))
    assert (8 + int.from_bytes(data[:8], "little")) % 8 == 0


@pytest.mark.parametrize(
    ("dtype", "shape", "says"),
    [("F4", (3,), "does not fill bytes"), ("F64", (2**62, 2), "overflows")],
)
def test_what_cannot_be_read_is_not_written(dtype: str, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(FormatError, match=says):
        encode_header([("a", dtype, shape)], {})


#: What an edit puts into a header: all that its form is made of, and what is not allowed there.
PIECES = st.one_of(
    st.sampled_from([*'{}[],:"\\ -0195.a\n', "é", "true", "null", "{},", str(2**63)]),
    st.sampled_from(['"a"', '"a":1', '"shape":', '"__metadata__":', '"__metadata__":{},']),
    st.just('"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'),
)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), PIECES | st.just("")), max_size=3)


@given(tensors(sorted(BITS)), METADATA, EDITS)
def test_the_fast_reading_of_a_header_is_the_strict_one(
    contents: dict[str, tuple[str, tuple[int, ...], bytes]],
    metadata: dict[str, str],
    edits: list[tuple[float, int, str]],
) -> None:
    described = [(name, dtype, shape) for name, (dtype, shape, _) in contents.items()]
    text = encode_header(described, metadata)[8:].decode()
    for place, removed, inserted in edits:
        at = round(place * len(text))
        text = text[:at] + inserted + text[at + removed :]
    found = _read_compact(text.encode(), 8)
    if found is not None:
        fast, strict = Header(*found), Header(*_read_strictly(text.encode(), 8, "file"))
        assert repr((fast.tensors, fast.metadata)) == repr((strict.tensors, strict.metadata))


@given(tensors(sorted(BITS)).filter(bool), METADATA)
def test_a_header_as_it_is_usually_written_is_read_the_fast_way(
    contents: dict[str, tuple[str, tuple[int, ...], bytes]], metadata: dict[str, str]
) -> None:
    assume(not any({*name} & {*map(chr, range(32)), '"', "\\"} for name in contents))
    described = [(name, dtype, shape) for name, (dtype, shape, _) in contents.items()]
    assert _read_compact(encode_header(described, metadata)[8:], 8) is not None


@pytest.mark.parametrize(
    "text",
    [
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}',
        '{,"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},}',
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}',
        '{"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}}',
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,01]}}',
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[00,1]}}',
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}} x',
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        '"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
        '{"__metadata__":{}"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        '{"__metadata__":{},,"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        '{"__metadata__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        '"b":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}x,'
        '"c":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
        '{"a":{"dtype":"U8","shape":[4611686018427387904],"data_offsets":[0,4611686018427387904]},'
        '"b":{"dtype":"U8","shape":[4611686018427387904],'
        '"data_offsets":[4611686018427387904,9223372036854775808]}}',
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[9223372036854775808,9223372036854775809]}}',
    ],
)
def test_a_header_that_breaks_a_rule_is_not_read_the_fast_way(text: str) -> None:
    assert _read_compact(text.encode(), 8) is None
    with pytest.raises(FormatError):
        parse_header(text.encode(), 8 + len(text) + 1, "file")


def test_a_header_of_very_many_shapes_costs_no_more_than_the_strict_reading() -> None:
    empty = [(f"t{n}", "U8", (0, n)) for n in range(10_001)]
    assert _read_compact(encode_header(empty, {})[8:], 8) is None
    assert _read_compact(encode_header(empty[:-1], {})[8:], 8) is not None


def test_the_tensors_of_a_header_are_found_whatever_metadata_was_before_equal_ones() -> None:
    tensors = [("a", "F32", (2,)), ("b", "F16", (3, 1))]
    for metadata in ({}, {"title": "x" * 100}, {"title": "x"}):
        encoded = encode_header(tensors, metadata)
        text, size = encoded[8:], len(encoded) + 14
        columns, found = _read_strictly(text, len(encoded), "x")
        header = parse_header(text, size, "x")
        assert found == header.metadata == metadata
        assert list(map(list, header.columns)) == list(map(list, columns))


def test_tensors_come_in_the_order_of_their_bytes() -> None:
    text = (
        b'{"late":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},'
        b'"early":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    )
    header = parse_header(text, 8 + len(text) + 3, "file")
    assert [tensor.name for tensor in header.tensors] == ["early", "late"]
    assert [tensor.nbytes for tensor in header.tensors] == [1, 2]
    assert [tensor.parameters for tensor in header.tensors] == [1, 2]


def test_a_parser_leaves_the_garbage_collector_as_it_was() -> None:
    import gc

    parse = partial(parse_header, b"{}", 10, "file")
    parse()
    assert gc.isenabled()
    with pytest.raises(FormatError):
        parse_header(b"{", 9, "file")
    assert gc.isenabled()
    gc.disable()
    try:
        parse()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_200000_tensors_open_in_seconds(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    count = 200_000
    path = tmp_path / "model.safetensors"
    described = [
        (f"model.layers.{n // 1000}.mlp.experts.{n % 1000}.up_proj.weight", "BF16", (2, 4))
        for n in range(count)
    ]
    with path.open("wb") as file:
        header = encode_header(described, {"format": "pt"})
        file.write(header)
        file.truncate(len(header) + 16 * count)
    start = time.process_time()
    checkpoint = open_checkpoint(path)
    seconds = time.process_time() - start
    record_property("seconds", seconds)
    assert len(checkpoint.tensors) == count
    assert seconds < 6, f"{seconds:.1f} s"
