"""An input is a regular file, read by position, and noticed when it changes."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from loratools.errors import FormatError, StorageError
from loratools.io.file import InputFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)))
    return path


def test_bytes_are_read_by_position(path: Path) -> None:
    file = InputFile(path)
    assert file.size == 256
    assert file.read(3, 4) == bytes([3, 4, 5, 6])
    assert file.read(256, 0) == b""
    buffer = bytearray(2)
    file.read_into(memoryview(buffer), 254)
    assert buffer == bytes([254, 255])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.symlink_to("gone"), "a link to gone, which is not there"),
        (lambda path: path.symlink_to("file"), "no such file"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.mkdir(), "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to("/dev/full"), "not a regular file"),
    ],
    ids=["nothing", "dangling link", "own link", "pipe", "folder", "device", "another device"],
)
def test_only_a_regular_file_is_opened(
    tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    """And nothing is waited for: a pipe has no writer here."""
    make(tmp_path / "file")
    with pytest.raises(FormatError, match=f"file: {says}"):
        InputFile(tmp_path / "file")


def test_a_socket_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("file")
        with pytest.raises(FormatError, match="not a regular file"):
            InputFile(tmp_path / "file")


def test_many_places_are_read_as_each_of_them(path: Path) -> None:
    file = InputFile(path)
    places = [(3, 4), (254, 2), (3, 1), (256, 0)]
    assert file.read_each(places) == [file.read(*place) for place in places]


@pytest.mark.parametrize("size", [0, 100, 255])
def test_a_file_that_became_shorter_is_an_error(path: Path, size: int) -> None:
    file = InputFile(path)
    os.truncate(path, size)
    with pytest.raises(StorageError, match="became shorter while it was read"):
        file.read(0, 256)
    with pytest.raises(StorageError, match="became shorter while it was read"):
        file.read_each([(0, 0), (255, 1)])


def test_a_truncation_is_an_error_and_not_a_signal(tmp_path: Path) -> None:
    """The same under a memory map is a SIGBUS, which nothing in Python can catch."""
    program = """
        import os, sys
        from pathlib import Path
        from loratools.errors import StorageError
        from loratools.files.checkpoints import open_checkpoint
        from loratools.io.writer import lay_out
        path = Path(sys.argv[1])
        layout = lay_out([("a", "F32", (1024, 1024))], {})
        path.write_bytes(layout.header)
        os.truncate(path, layout.size)
        weight = open_checkpoint(path).tensors["a"]
        assert weight.read_rows(1000, 1001).sum() == 0
        os.truncate(path, len(layout.header) + 4096)
        try:
            weight.read_rows(1000, 1001)
        except StorageError as error:
            print(error)
    """
    path = tmp_path / "model.safetensors"
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode != -signal.SIGBUS
    assert found.stdout == f"{path}: became shorter while it was read\n", found.stderr


@pytest.mark.parametrize("by", ["appending", "rewriting"])
def test_a_file_that_was_written_to_is_an_error(path: Path, by: str) -> None:
    file = InputFile(path)
    file.read(0, 256)
    if by == "appending":
        with path.open("ab") as other:
            other.write(b"more")
    else:
        path.write_bytes(bytes(256))
        os.utime(path, ns=(0, 0))
    with pytest.raises(StorageError, match="changed while it was read; read it again"):
        file.read(0, 256)
    with pytest.raises(StorageError, match="changed while it was read; read it again"):
        file.read_each([(0, 2), (2, 2)])
    with pytest.raises(StorageError, match="changed while it was read; read it again"):
        file.check_unchanged()


def test_a_file_that_was_replaced_is_read_to_its_end(path: Path) -> None:
    """It is another file of the same name: what was opened is still whole."""
    file = InputFile(path)
    path.rename(path.with_name("old"))
    path.write_bytes(b"new")
    assert file.read(0, 256) == bytes(range(256))


@pytest.mark.parametrize("use", [lambda file: file.read(0, 2), lambda file: file.check_unchanged()])
def test_a_pickled_file_is_the_same_file_or_an_error(
    path: Path, use: Callable[[InputFile], object]
) -> None:
    """Another process opens it again by its name: to read it, or for a copy in the kernel."""
    pickled = pickle.dumps(InputFile(path))
    assert pickle.loads(pickled).read(0, 2) == b"\0\1"
    original = path.read_bytes()
    path.unlink()
    path.with_name("other").write_bytes(b"")  # so that the inode's number is not used again
    path.write_bytes(original)
    reopened = pickle.loads(pickled)
    with pytest.raises(StorageError, match="changed while it was read"):
        use(reopened)


def test_descriptors_are_given_back(path: Path) -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    for _ in range(5):
        InputFile(path)
        with pytest.raises(FormatError):
            InputFile(path.parent)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_file_that_may_not_be_read_is_named(path: Path) -> None:
    path.chmod(0)
    path.parent.chmod(0o755)
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom loratools.io.file import InputFile\n"
        "os.chdir(Path(sys.argv[1]).parent)\nos.setuid(65534)\n"
        "InputFile(Path(sys.argv[1]).relative_to(Path(sys.argv[1]).parent))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=False
    )
    assert found.stderr.strip().endswith(
        "StorageError: file: permission denied; change its permissions, or name another path"
    )
