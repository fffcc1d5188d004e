"""A file is either what the format says, or a `FormatError` that says why it is not."""

import random
import re
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from safetensors import SafetensorError, deserialize

from loratools.errors import FormatError, LoratoolsError
from loratools.files.checkpoints import open_checkpoint
from tests.hostile.corpus import ACCEPTED, BROKEN_ENTRIES, BROKEN_FILES, NAME, Fault

ALL = {
    **{name: fault.data for name, fault in (BROKEN_FILES | BROKEN_ENTRIES).items()},
    **ACCEPTED,
}
MUTATIONS = 2000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """What we read: dtype, shape and bytes by name."""
    return {
        tensor.name: (
            tensor.dtype,
            tensor.shape,
            tensor.file.read(tensor.begin, tensor.nbytes),
        )
        for tensor in open_checkpoint(path).tensors.values()
    }


def tensors_of_the_library(data: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (fields["dtype"], tuple(fields["shape"]), bytes(fields["data"]))
        for name, fields in deserialize(data)
    }


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        open_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("fault", BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_broken_file_is_refused_by_name_in_one_line(path: Path, fault: Fault) -> None:
    assert fault.says in refusal(path, fault.data)


@pytest.mark.parametrize("fault", BROKEN_ENTRIES.values(), ids=BROKEN_ENTRIES)
def test_a_broken_entry_is_refused_by_name_in_one_line(path: Path, fault: Fault) -> None:
    text = refusal(path, fault.data)
    assert fault.says in text
    assert NAME in text or "appears twice" in text


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_odd_and_legal_is_read(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert tensors(path) == tensors_of_the_library(data)


def same_or_refused(path: Path, data: bytes) -> bool:
    """Whether we accept `data`; where we do, the library reads the same."""
    path.write_bytes(data)
    try:
        ours = tensors(path)
    except LoratoolsError:
        return False
    assert ours == tensors_of_the_library(data)
    return True


@pytest.mark.parametrize("data", ALL.values(), ids=ALL)
def test_no_file_means_something_else_to_the_library(path: Path, data: bytes) -> None:
    same_or_refused(path, data)


@pytest.mark.parametrize(
    "name",
    [
        "a tensor twice, alike",
        "a metadata key twice",
        "a leading space",
        "an extra field",
    ],
)
def test_we_are_stricter_than_the_library(path: Path, name: str) -> None:
    """If this fails, the library has become stricter, and the comparison above says less."""
    tensors_of_the_library(ALL[name])
    assert not same_or_refused(path, ALL[name])


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` with one accident: flipped bits, bytes lost, doubled, overwritten or exchanged."""
    header = 8 + int.from_bytes(data[:8], "little")
    # Most accidents go to the header: it is what can be misread.
    end = header if rng.random() < 0.9 else len(data)
    begin = rng.randrange(end)
    stop = min(len(data), begin + rng.choice((1, 2, 4, 8, 50)))
    other = rng.randrange(end)
    kind = rng.randrange(8)
    if kind < 2:
        bits = 1 << rng.randrange(8)
        return data[:begin] + bytes([data[begin] ^ bits]) + data[begin + 1 :]
    if kind == 2:
        return data[:begin]
    if kind == 3:
        return data[:begin] + data[stop:]
    if kind == 4:
        return data[:stop] + data[begin:]
    if kind == 5:
        return data[:other] + data[begin:stop] + data[other + stop - begin :]
    if kind == 6:
        token = rng.choice([b"0", b"-", b"1e1", b"\0", b'"', b"{", b"}", b"[", b",", b"\\u", b" "])
        return data[:begin] + token + data[begin + rng.choice((0, 1)) :]
    # An entry may move as a whole, with the length that it then needs.
    text = data[:begin] + data[begin:stop] + data[begin:]
    size = header - 8 + len(text) - len(data)
    return struct.pack("<Q", size) + text[8:]


@pytest.mark.parametrize("part", range(4))
def test_an_accident_is_refused_or_read_as_the_library_reads_it(
    path: Path, part: int, fixtures: Path
) -> None:
    rng = random.Random(part)
    adapter = fixtures / "adapters/gpt2-bias-all/adapter_model.safetensors"
    seeds = [*ACCEPTED.values(), adapter.read_bytes()]
    accepted = sum(
        same_or_refused(path, mutated(rng.choice(seeds), rng)) for _ in range(MUTATIONS // 4)
    )
    assert 0 < accepted < MUTATIONS // 4


BOMBS = {
    "objects": 'b\'{"a": [\' + b"{}," * (size // 3) + b"{}]}"',
    "arrays": 'b\'{"a": [\' + b"[]," * (size // 3) + b"[]]}"',
    "numbers": 'b\'{"a": [\' + b"999," * (size // 4) + b"9]}"',
    "keys": 'b"{" + b",".join(b\'"%d":0\' % i for i in range(size // 11)) + b"}"',
    "one key twice, at the end": (
        'b"{" + b",".join(b\'"%d":0\' % i for i in range(size // 11)) + b\',"z":0,"z":0}\''
    ),
    "entries": (
        'b\'{\' + b\',\'.join(b\'"%d":{"dtype":"U8","shape":[],"data_offsets":[999,999]}\' % i'
        " for i in range(size // 62)) + b'}'"
    ),
    "brackets": "b'{\"a\":' + b'[' * size",
    "one number": "b'{\"a\":' + b'9' * size + b'}'",
    "one name": "b'{\"' + b'n' * size + b'\":0}'",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_hostile_header_costs_time_and_memory_in_proportion(path: Path, bomb: str) -> None:
    """Python's JSON takes at most 25 times the memory of its text, for arrays of arrays."""
    megabytes = 4
    program = f"""
        import sys, time
        from pathlib import Path
        from loratools.errors import FormatError
        from loratools.io.file import InputFile
        size = {megabytes}_000_000
        text = {bomb}
        path = Path(sys.argv[1])
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        del text
        def peak():
            return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
        Path("/proc/self/clear_refs").write_text("5")
        before = peak()
        try:
            InputFile(path).read_header()
        except FormatError as error:
            print((peak() - before) // 1000, len(str(error)))
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), path],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    grown, length = map(int, found.stdout.split())
    assert grown < 30 * megabytes
    assert length < 400 + len(str(path))


def test_the_limit_of_the_library_is_ours() -> None:
    """100 MB: one byte more is refused by both before anything is read."""
    with pytest.raises(SafetensorError, match=re.compile("header too large", re.IGNORECASE)):
        deserialize(BROKEN_FILES["length over the limit"].data)
