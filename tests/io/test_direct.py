"""Whether bytes are written past the page cache or through it does not show in the file."""

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools import merge
from loratools.errors import OptionError, StorageError
from loratools.io import direct
from loratools.io.file import InputFile
from loratools.io.platform import reserve_range
from loratools.io.writer import OutputFile, lay_out
from tests.e2e.commands import FIXTURES, PLAIN, SHARDED, SINGLE, digests

BLOCK = 4096
SIZE = 5 * BLOCK + 100
#: Bytes that differ wherever blocks begin.
CONTENT = bytes(i * 7 % 251 for i in range(SIZE))
LAYOUT = lay_out([("a", "U8", (SIZE,))], {})
BEGIN = LAYOUT.tensors["a"].begin


class Disk:
    """A strict disk under `os.pwrite`, whose answers a test can choose.

    It refuses direct writes as disks do: where address, position or length is no multiple of its
    block size. `answers` are the errors, or the numbers of bytes, of its next answers.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.answers: list[int | OSError] = []
        self.direct: list[tuple[int, int]] = []
        self._descriptors: set[int] = set()
        self._open, self._pwrite = os.open, os.pwrite
        patch.setattr(os, "open", self.open)
        patch.setattr(os, "pwrite", self.pwrite)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        fd = self._open(path, flags & ~os.O_DIRECT, mode)
        (self._descriptors.add if flags & os.O_DIRECT else self._descriptors.discard)(fd)
        return fd

    def pwrite(self, fd: int, data: memoryview, position: int) -> int:
        if fd not in self._descriptors:
            return self._pwrite(fd, data, position)
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        if any(number % BLOCK for number in (address, position, len(data))):
            raise OSError(errno.EINVAL, "not aligned")
        self.direct.append((position, len(data)))
        answer = self.answers.pop(0) if self.answers else len(data)
        if isinstance(answer, OSError):
            raise answer
        return self._pwrite(fd, data[:answer], position)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setenv("LORATOOLS_DIRECT", "1")
    return Disk(monkeypatch)


@pytest.fixture(params=[1, 4096, 512 * 4096])
def small_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratools.io.direct.AT_ONCE", max(BLOCK, request.param))


def placed(data: bytes, position: int) -> memoryview:
    """The data in memory from which they can be written without a copy."""
    view = direct.buffer_for(position, len(data))
    view[:] = data
    return view


def readable(data: bytes, _position: int) -> memoryview:
    return memoryview(data)


def writable(data: bytes, _position: int) -> memoryview:
    return memoryview(bytearray(data))


def written(path: Path) -> bytes:
    return InputFile(path).read(BEGIN, SIZE)


CUTS = st.lists(st.integers(0, SIZE), max_size=4).map(lambda cuts: sorted({0, SIZE, *cuts}))


@given(CUTS, st.sampled_from([placed, readable, writable]))
def test_what_is_written_is_in_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
    memory: Callable[[bytes, int], memoryview],
) -> None:
    path = tmp_path_factory.mktemp("direct") / "file"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORATOOLS_DIRECT", "1")
        disk = Disk(patch)
        output = OutputFile(path, LAYOUT)
        for begin, end in reversed(list(pairwise(cuts))):
            output.write("a", begin, memory(CONTENT[begin:end], BEGIN + begin))
        output.sync()
        output.close()
    assert written(path) == CONTENT
    whole = set(range(BLOCK, BLOCK * 6, BLOCK))
    inside = {
        first
        for begin, end in pairwise(cuts)
        for first in whole
        if BEGIN + begin <= first and first + BLOCK <= BEGIN + end
    }
    assert inside == {n for first, size in disk.direct for n in range(first, first + size, BLOCK)}


@given(CUTS, st.lists(st.sampled_from([placed, readable, writable]), min_size=1), st.integers(0, 9))
def test_blocks_that_follow_each_other_have_two_ends(
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
    memories: list[Callable[[bytes, int], memoryview]],
    offset: int,
) -> None:
    """Whichever way each of them takes, and wherever it lies in memory."""
    path = tmp_path_factory.mktemp("direct") / "file"
    cuts = sorted({offset, *(cut for cut in cuts if cut > offset)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORATOOLS_DIRECT", "1")
        disk = Disk(patch)
        output = OutputFile(path, LAYOUT)
        output.write("a", 0, memoryview(CONTENT[:offset]))
        blocks = output.writing("a", offset, SIZE - offset)
        for number, (begin, end) in enumerate(pairwise(cuts)):
            memory = memories[number % len(memories)]
            blocks.write(memory(CONTENT[begin:end], BEGIN + begin))
        blocks.end()
        output.sync()
        output.close()
    assert written(path) == CONTENT
    if set(memories) == {placed}:
        # Blocks of a unit or less may have to wait for more than one other.
        units = {n for first, size in disk.direct for n in range(first, first + size, BLOCK)}
        if all(end - begin >= 2 * BLOCK for begin, end in pairwise(cuts)):
            assert units == set(range(BLOCK, 5 * BLOCK, BLOCK))


@pytest.mark.parametrize("begin", [0, 1, BLOCK - BEGIN])
def test_what_is_copied_is_in_the_file(tmp_path: Path, disk: Disk, begin: int) -> None:
    (tmp_path / "source").write_bytes(b"." * begin + CONTENT)
    output = OutputFile(tmp_path / "file", LAYOUT)
    output.copy(InputFile(tmp_path / "source"), begin, BEGIN, SIZE)
    assert written(tmp_path / "file") == CONTENT
    assert disk.direct == [(BLOCK, 4 * BLOCK)]


def test_what_is_written_directly_has_room_before(tmp_path: Path, disk: Disk) -> None:
    """Else threads that write to one file wait for each other."""
    output = OutputFile(tmp_path / "file", LAYOUT)
    if not room(tmp_path / "file") < SIZE or not reserved(tmp_path / "other"):
        pytest.skip("this file system has no files with holes, or finds no room beforehand")
    output.writing("a", 0, SIZE)
    assert room(tmp_path / "file") >= SIZE


def reserved(path: Path) -> bool:
    """Whether the file system finds room for a range of a new file."""
    with path.open("wb") as file:
        os.ftruncate(file.fileno(), SIZE)
        reserve_range(file.fileno(), 0, SIZE)
    return room(path) >= SIZE


def room(path: Path) -> int:
    return 512 * path.stat().st_blocks


ANSWERS: dict[str, list[int | OSError]] = {
    "refused": [OSError(errno.EINVAL, "invalid")],
    "not supported": [OSError(errno.EOPNOTSUPP, "not supported")],
    "refused later": [BLOCK, OSError(errno.EINVAL, "invalid")],
    "short": [BLOCK, 2 * BLOCK],
    "short by less than a block": [BLOCK + 512],
    "nothing": [0],
}


@pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS)
def test_bytes_that_the_disk_does_not_take_go_through_the_page_cache(
    tmp_path: Path, disk: Disk, answers: list[int | OSError]
) -> None:
    disk.answers = list(answers)
    output = OutputFile(tmp_path / "file", LAYOUT)
    output.write("a", 0, memoryview(CONTENT))
    assert written(tmp_path / "file") == CONTENT
    assert not disk.answers


def test_a_file_system_that_refuses_is_not_asked_again(tmp_path: Path, disk: Disk) -> None:
    disk.answers = [OSError(errno.EINVAL, "invalid")]
    output = OutputFile(tmp_path / "file", LAYOUT)
    for _ in range(3):
        output.write("a", 0, memoryview(CONTENT))
    assert len(disk.direct) == 1
    assert not output.is_direct


def test_a_file_system_without_direct_opening_takes_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORATOOLS_DIRECT", "1")
    output, real = OutputFile(tmp_path / "file", LAYOUT), os.open

    def refusing(path: Path, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "invalid")
        return real(path, flags)

    monkeypatch.setattr(os, "open", refusing)
    output.write("a", 0, memoryview(CONTENT))
    assert written(tmp_path / "file") == CONTENT
    assert not output.is_direct


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("before", [0, 1])
def test_an_error_of_the_disk_is_one_of_the_file(
    tmp_path: Path, disk: Disk, number: int, before: int
) -> None:
    disk.answers = [*[BLOCK] * before, OSError(number, os.strerror(number))]
    output = OutputFile(tmp_path / "file", LAYOUT)
    with pytest.raises(StorageError, match=os.strerror(number).lower()):
        output.write("a", 0, memoryview(CONTENT))


@pytest.mark.parametrize("position", [0, 1, 4095, 4096, 10_000])
@pytest.mark.parametrize("nbytes", [1, 5000, 2 * direct.PIECE_BYTES])
def test_a_buffer_lies_as_its_bytes_lie_in_the_file(position: int, nbytes: int) -> None:
    view = direct.buffer_for(position, nbytes)
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    assert (address - position) % BLOCK == 0
    assert len(view) == nbytes
    view[:] = bytes(nbytes)


LARGE = 64 * 2**20


@pytest.fixture
def device() -> Iterator[int]:
    fd = os.open("/dev/null", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="the system has no direct writes")
@pytest.mark.parametrize(
    ("setting", "size", "number", "least"),
    [
        ("", LARGE, 259, 2**18),
        ("", LARGE - 1, 259, None),
        ("", LARGE, 5, None),  # the major number is 0: tmpfs, NFS, overlay
        ("0", LARGE, 259, None),
        ("1", 1, 5, BLOCK),
    ],
)
def test_large_files_on_disks_are_written_directly(
    monkeypatch: pytest.MonkeyPatch,
    device: int,
    setting: str,
    size: int,
    number: int,
    least: int | None,
) -> None:
    status = list(os.fstat(device))
    status[2] = number
    monkeypatch.setenv("LORATOOLS_DIRECT", setting)
    monkeypatch.setattr(os, "fstat", lambda fd: os.stat_result(status))
    assert direct.least_part(device, size) == least


def test_the_setting_is_0_or_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORATOOLS_DIRECT", "yes")
    with pytest.raises(OptionError, match="LORATOOLS_DIRECT is 0 or 1, not 'yes'"):
        merge(SHARDED, PLAIN, output=tmp_path / "merged")
    assert not list(tmp_path.iterdir())


#: Adapters whose merges copy, edit, convert, replace and add tensors.
MERGES = [
    (SHARDED, "plain"),
    (SHARDED, "dora"),
    (SINGLE, "lm-head"),
    (SINGLE / "model.safetensors", "combine-r16"),
    (FIXTURES / "tiny-gpt2", "gpt2-conv1d-dora"),
    (FIXTURES / "tiny-gpt2", "gpt2-bias-all"),
]


@pytest.mark.parametrize(("base", "name"), MERGES, ids=[name for _, name in MERGES])
def test_the_way_of_writing_does_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Path, name: str
) -> None:
    found = []
    for setting in "01":
        monkeypatch.setenv("LORATOOLS_DIRECT", setting)
        output = tmp_path / f"merged {setting}{base.suffix}"
        merge(base, FIXTURES / "adapters" / name, output=output)
        found.append([*digests(output).values()])
    assert found[0] == found[1]


def test_computed_blocks_are_written_from_where_they_were_computed(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligned, copied = direct._aligned, 0

    def counted(data: memoryview) -> memoryview:
        nonlocal copied
        view = aligned(data)
        copied += view is not data
        return view

    monkeypatch.setattr(direct, "_aligned", counted)
    merge(SHARDED, PLAIN, output=tmp_path / "merged")
    assert disk.direct
    assert not copied
