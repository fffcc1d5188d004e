"""What is copied or published lies in its folder: no link is followed but a Hub cache's own."""

import os
import pickle
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loratools.errors import FormatError, StorageError
from loratools.io import inside
from loratools.io.file import InputFile
from loratools.io.inside import entries


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    path = tmp_path / "outside/secret"
    path.write_bytes(b"secret")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder/sub").mkdir(parents=True)
    (tmp_path / "folder/sub/file").write_bytes(b"own")
    return tmp_path / "folder"


def opened(folder: Path, name: str = "sub/file") -> InputFile:
    return InputFile(folder / name, folder=folder)


@pytest.fixture(params=["by descriptors", "compared"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a file cannot be opened beside a descriptor, as on Windows."""
    if request.param == "compared":
        monkeypatch.setattr(os, "supports_dir_fd", set())


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(
    ("put", "name"),
    [
        (lambda folder, secret: (folder / "link").symlink_to(secret), "link"),
        (lambda folder, secret: (folder / "link").symlink_to("/dev/zero"), "link"),
        (lambda folder, secret: (folder / "link").symlink_to("sub/file"), "link"),
        (lambda folder, secret: (folder / "link").symlink_to("nowhere"), "link"),
        (lambda folder, secret: (folder / "link").symlink_to("link"), "link"),
        (lambda folder, secret: (folder / "link").symlink_to(secret.parent), "link/secret"),
        (lambda folder, secret: (folder / "link").symlink_to(secret.parent), "link"),
        (lambda folder, secret: (folder / "sub/link").symlink_to(secret), "sub/link"),
    ],
    ids=["file", "device", "file inside", "nothing", "itself", "by a folder", "folder", "deeper"],
)
def test_no_link_is_followed(
    folder: Path, secret: Path, put: Callable[[Path, Path], None], name: str
) -> None:
    put(folder, secret)
    with pytest.raises(FormatError, match="link: a link, and what it leads to may not be meant"):
        opened(folder, name)


@pytest.mark.usefixtures("platform")
def test_the_folder_itself_may_be_named_by_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "named").symlink_to(folder)
    assert opened(tmp_path / "named").read(0, 3) == b"own"


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_only_a_regular_file_of_a_folder_is_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(folder)  # the path of a socket may not be long
    if kind == "pipe":
        os.mkfifo("other")
    elif kind == "folder":
        (folder / "other").mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("other")
    with pytest.raises(FormatError, match="other: not a regular file"):
        opened(folder, "other")


def test_a_name_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(FormatError, match="gone: no such file"):
        opened(folder, "gone")


def snapshot(tmp_path: Path, blobs: str = "blobs") -> Path:
    repository = tmp_path / "hub/models--ann--x"
    folder = repository / "snapshots/0123"
    (folder / "sub").mkdir(parents=True)
    (repository / blobs).mkdir()
    (repository / blobs / "abc").write_bytes(b"blob")
    (folder / "file").symlink_to("../../blobs/abc")
    (folder / "sub/file").symlink_to("../../../blobs/abc")
    return folder


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("name", ["file", "sub/file"])
def test_links_of_a_hub_cache_to_its_own_blobs_are_followed(tmp_path: Path, name: str) -> None:
    folder = snapshot(tmp_path)
    assert opened(folder, name).read(0, 4) == b"blob"
    (tmp_path / "named").symlink_to(folder)
    assert opened(tmp_path / "named", name).read(0, 4) == b"blob"
    if "/" in name:
        assert opened(folder / "sub", "file").read(0, 4) == b"blob"


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("kind", ["outside", "other repository", "linked blob", "linked blobs"])
def test_no_other_link_of_a_hub_cache_is_followed(tmp_path: Path, secret: Path, kind: str) -> None:
    folder = snapshot(tmp_path, blobs="real" if kind == "linked blobs" else "blobs")
    repository = folder.parent.parent
    (folder / "file").unlink()
    if kind == "outside":
        (folder / "file").symlink_to(secret)
    elif kind == "other repository":
        (tmp_path / "hub/models--ann--y/blobs").mkdir(parents=True)
        (tmp_path / "hub/models--ann--y/blobs/abc").write_bytes(b"private")
        (folder / "file").symlink_to("../../../models--ann--y/blobs/abc")
    elif kind == "linked blob":
        (folder / "file").symlink_to("../../blobs/abc")
        (repository / "blobs/abc").unlink()
        (repository / "blobs/abc").symlink_to(secret)
    else:
        (folder / "file").symlink_to("../../blobs/secret")
        (repository / "blobs").symlink_to(secret.parent)
    with pytest.raises(FormatError, match="file: a link"):
        opened(folder, "file")


def test_what_was_opened_is_what_is_read_whatever_takes_its_name(
    folder: Path, secret: Path
) -> None:
    file = opened(folder)
    (folder / "sub/file").unlink()
    (folder / "sub/file").symlink_to(secret)
    assert file.read(0, 3) == b"own"


@pytest.mark.parametrize("again", ["closed", "pickled"])
def test_opening_a_file_again_follows_no_link_either(
    folder: Path, secret: Path, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loratools.io.descriptors._MOST", 0)  # it is open only while it is read
    file = opened(folder)
    if again == "pickled":
        file = pickle.loads(pickle.dumps(file))
    assert file.read(0, 3) == b"own"
    (folder / "sub/file").unlink()
    (folder / "sub/file").symlink_to(secret)
    with pytest.raises(FormatError, match="file: a link"):
        file.read(0, 3)


def test_a_folder_that_takes_the_place_of_a_link_is_not_taken_for_it(
    folder: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows: what is opened is compared with what the name stands for without links."""
    monkeypatch.setattr(os, "supports_dir_fd", set())
    monkeypatch.setattr(inside, "_first_link", lambda folder, name: None)
    (folder / "link").symlink_to(secret)
    with pytest.raises(StorageError, match="changed while it was opened"):
        opened(folder, "link")


def test_entries_are_all_that_is_there_but_for_folders(folder: Path, secret: Path) -> None:
    (folder / "link").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent)
    (folder / "empty").mkdir()
    os.mkfifo(folder / "sub/pipe")
    assert entries(folder) == ["link", "linked", "sub/file", "sub/pipe"]


def test_a_folder_inside_that_cannot_be_read_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests may run as a user who may read everything."""
    scandir = os.scandir

    def refuse(path: Path) -> Iterator[os.DirEntry[str]]:
        if path == folder / "sub":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match="folder/sub: permission denied"):
        entries(folder)
