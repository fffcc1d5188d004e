"""A file written by position is the file that was laid out, whoever writes which bytes first."""

import os
import pickle
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools.errors import StorageError
from loratools.io.descriptors import Descriptor
from loratools.io.file import InputFile
from loratools.io.writer import Layout, OutputFile, lay_out
from tests.reliability.umask import umask

TENSORS = [("b", "F32", (2, 3)), ("a", "BF16", (5,)), ("empty", "F64", (0, 7)), ("c", "U8", ())]
VALUES = {"b": bytes(range(24)), "a": bytes(range(100, 110)), "empty": b"", "c": b"!"}


@pytest.fixture
def layout() -> Layout:
    return lay_out(TENSORS, {"format": "pt"})


def read(path: Path) -> dict[str, bytes]:
    header = InputFile(path).read_header()
    return {t.name: InputFile(path).read(t.begin, t.nbytes) for t in header.tensors}


def test_a_layout_is_known_before_the_first_byte(tmp_path: Path, layout: Layout) -> None:
    path = tmp_path / "file"
    output = OutputFile(path, layout)
    assert path.stat().st_size == layout.size
    header = InputFile(path).read_header()
    assert {t.name: t for t in header.tensors} == layout.tensors
    assert list(layout.tensors) == ["b", "a", "empty", "c"]
    output.close()


@given(st.permutations([(name, i) for name, data in VALUES.items() for i in range(len(data))]))
def test_the_order_of_writing_does_not_show(
    tmp_path_factory: pytest.TempPathFactory, order: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("writer") / "file"
    output = OutputFile(path, lay_out(TENSORS, {}))
    for name, i in order:
        output.write(name, i, memoryview(VALUES[name])[i : i + 1])
    output.sync()
    assert read(path) == VALUES
    output.close()


def test_bytes_are_copied_from_another_file(tmp_path: Path, layout: Layout) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"..." + VALUES["b"])
    output = OutputFile(tmp_path / "file", layout)
    output.copy(InputFile(source), 3, layout.tensors["b"].begin, 24)
    output.start_writeback("b", 0, 24)
    assert read(tmp_path / "file")["b"] == VALUES["b"]
    with pytest.raises(StorageError, match="source: became shorter while it was read"):
        output.copy(InputFile(source), 20, layout.tensors["b"].begin, 24)


def test_nothing_is_written_past_a_tensor(tmp_path: Path, layout: Layout) -> None:
    output = OutputFile(tmp_path / "file", layout)
    with pytest.raises(AssertionError):
        output.write("a", 9, memoryview(b"ab"))


def test_a_file_that_exists_is_never_written_to(tmp_path: Path, layout: Layout) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="file: file exists"):
        OutputFile(tmp_path / "file", layout)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read(
    tmp_path: Path, layout: Layout, mask: int, mode: int
) -> None:
    with umask(mask):
        OutputFile(tmp_path / "file", layout)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_a_pickled_file_is_the_same_file_or_an_error(tmp_path: Path, layout: Layout) -> None:
    """Another process writes to it; never to a file that another run made in its place."""
    path = tmp_path / "file"
    output = OutputFile(path, layout)
    pickled = pickle.dumps(output)
    pickle.loads(pickled).write("c", 0, memoryview(b"!"))
    assert read(path)["c"] == b"!"
    path.unlink()
    other = OutputFile(path, layout)
    reopened = pickle.loads(pickled)
    with pytest.raises(StorageError, match="another run has begun to write this output"):
        reopened.write("c", 0, memoryview(b"!"))
    assert read(path)["c"] == b"\0"
    other.close()


def test_a_closed_file_is_closed_once(tmp_path: Path, layout: Layout) -> None:
    output = OutputFile(tmp_path / "file", layout)
    fd = output._descriptor.pinned()
    output.close()
    output.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_full_device_is_an_error_with_its_name(layout: Layout, call: str) -> None:
    output = OutputFile.__new__(OutputFile)
    output.path, output.layout, output._least_direct = Path("/dev/full"), layout, None
    output._descriptor = Descriptor(lambda: os.open("/dev/full", os.O_RDWR))
    if call == "write":
        with pytest.raises(StorageError, match="/dev/full: no space left on device"):
            output.write("c", 0, memoryview(b"!"))
    else:
        with pytest.raises(StorageError, match="/dev/full: invalid argument"):
            output.sync()
