"""An output is absent, or as it was, or complete: at every moment and after every failure."""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from loratools.errors import OutputError, StorageError
from loratools.io import platform, publish
from loratools.io.file import InputFile
from loratools.io.publish import Staging, partial_path, staged
from tests.reliability.umask import umask


@pytest.fixture(params=["folder", "file"])
def is_folder(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "folder")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def fill(staging: Staging, is_folder: bool, text: bytes = b"new") -> None:
    staging.write_file("model.safetensors" if is_folder else staging.output.name, text)
    if is_folder:
        staging.write_file("config.json", text)
        staging.write_file("sub/folder/file", text)


def make_old(output: Path, is_folder: bool) -> None:
    if is_folder:
        (output / "sub").mkdir(parents=True)
        (output / "sub/deep").write_text("old")
        (output / "model.safetensors").write_text("old")
    else:
        output.write_text("old")


def is_new(output: Path, is_folder: bool) -> bool:
    names = ["model.safetensors", "config.json", "sub/folder/file"] if is_folder else [""]
    return all((output / name).read_bytes() == b"new" for name in names)


def is_old(output: Path, is_folder: bool) -> bool:
    if not is_folder:
        return output.read_text() == "old"
    files = sorted(file.relative_to(output).as_posix() for file in output.rglob("*"))
    return files == ["model.safetensors", "sub", "sub/deep"]


def write(
    output: Path,
    *,
    is_folder: bool,
    overwrite: bool = False,
    meanwhile: Callable[[Staging], None] = lambda staging: None,
    text: bytes = b"new",
) -> None:
    """An output made as `merge` makes one; `meanwhile`, before it has its name, things happen."""
    with staged(output, is_folder=is_folder, overwrite=overwrite) as staging:
        fill(staging, is_folder, text)
        meanwhile(staging)
        staging.publish()


def failing(error: type[BaseException]) -> Callable[[Staging], None]:
    def fail(_: Staging) -> None:
        raise error

    return fail


def names(output: Path) -> list[str]:
    return sorted(path.name for path in output.parent.iterdir())


# --- what is there afterwards --------------------------------------------------------------------


def test_an_output_appears_complete_and_alone(output: Path, is_folder: bool) -> None:
    with staged(output, is_folder=is_folder, overwrite=False) as staging:
        fill(staging, is_folder)
        assert names(output) == [".output.loratools-partial"]
        staging.publish()
        assert is_new(output, is_folder)
    assert names(output) == ["output"]


def test_an_output_that_is_replaced_is_the_old_or_the_new(output: Path, is_folder: bool) -> None:
    make_old(output, is_folder)
    with staged(output, is_folder=is_folder, overwrite=True) as staging:
        fill(staging, is_folder)
        assert is_old(output, is_folder)
        staging.publish()
        assert is_new(output, is_folder)
    assert names(output) == ["output"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_nothing_behind(
    output: Path, is_folder: bool, overwrite: bool, error: type[BaseException]
) -> None:
    if overwrite:
        make_old(output, is_folder)
    with pytest.raises(error):
        write(output, is_folder=is_folder, overwrite=overwrite, meanwhile=failing(error))
    assert names(output) == (["output"] if overwrite else [])
    assert not overwrite or is_old(output, is_folder)


def test_a_signal_while_cleaning_up_waits_for_it(
    output: Path, is_folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = shutil.rmtree, list[object]()

    def interrupted(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(*arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    make_old(output, is_folder)
    with pytest.raises(KeyboardInterrupt):
        write(output, is_folder=is_folder, overwrite=True)
    assert names(output) == ["output"]
    assert is_new(output, is_folder)


@pytest.mark.parametrize("leftover", ["files", "folders", "links", "nothing"])
def test_what_a_kill_has_left_is_replaced(
    output: Path, is_folder: bool, leftover: str, tmp_path: Path
) -> None:
    """What its links point to is not touched."""
    folder, elsewhere = partial_path(output), tmp_path / "elsewhere"
    folder.mkdir(mode=0o700)
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    if leftover == "files":
        (folder / "model.safetensors").write_text("half")
        (folder / "output").write_text("half")
    elif leftover == "folders":
        (folder / "sub/deep").mkdir(parents=True)
        (folder / "sub/deep/file").write_text("half")
    elif leftover == "links":
        (folder / "sub").symlink_to(elsewhere)
        (folder / "file").symlink_to(elsewhere / "mine")
    write(output, is_folder=is_folder)
    assert names(output) == ["elsewhere", "output"]
    assert is_new(output, is_folder)
    assert (elsewhere / "mine").read_text() == "mine"
    assert not is_folder or not (output / "file").exists()
    assert not is_folder or stat.S_IMODE(output.stat().st_mode) == 0o777 & ~current_umask()


def current_umask() -> int:
    with umask(0) as _:
        pass
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("kind", ["link to a folder", "link to nothing", "file", "pipe"])
def test_the_name_of_the_partial_folder_is_no_trap(
    output: Path, is_folder: bool, kind: str, tmp_path: Path
) -> None:
    """In a folder that others may write to, somebody could have put a link there."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    folder = partial_path(output)
    make: dict[str, Callable[[], object]] = {
        "link to a folder": lambda: folder.symlink_to(precious),
        "link to nothing": lambda: folder.symlink_to("gone"),
        "file": lambda: folder.write_text("mine"),
        "pipe": lambda: os.mkfifo(folder),
    }
    make[kind]()
    says = f"^{output}: is made in the folder `{folder.name}` beside it, and .* no folder; remove"
    with pytest.raises(StorageError, match=says):
        write(output, is_folder=is_folder)
    assert (precious / "file").read_text() == "mine"
    assert not output.exists()
    assert os.path.lexists(folder)


@pytest.mark.parametrize("name", ["v1.0 (final).safetensors", ".hidden", "it's"])
def test_a_message_names_the_partial_folder_only_where_that_is_in_the_way(
    tmp_path: Path, name: str
) -> None:
    output = tmp_path / name
    folder = partial_path(output)
    with (
        pytest.raises(StorageError) as caught,
        staged(output, is_folder=False, overwrite=False),
    ):
        raise StorageError(f"{folder / name}: full")
    assert str(caught.value) == f"{output}: full"
    folder.write_text("mine")
    with pytest.raises(StorageError) as caught:
        write(output, is_folder=False)
    assert f"{output}: is made in the folder `{folder.name}`" in str(caught.value)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0o002, 0o775)])
def test_the_umask_decides_who_may_read(
    output: Path, is_folder: bool, mask: int, mode: int
) -> None:
    with umask(mask):
        write(output, is_folder=is_folder)
    for path in (output, *output.rglob("*")):
        expected = mode if path.is_dir() else mode & 0o666
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_a_copied_file_has_the_permissions_of_a_new_one(output: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("new")
    source.chmod(0o777)
    with umask(0o022), staged(output, is_folder=True, overwrite=False) as staging:
        staging.copy_file("sub/copy", InputFile(source))
        staging.publish()
    assert (output / "sub/copy").read_text() == "new"
    assert stat.S_IMODE((output / "sub/copy").stat().st_mode) == 0o644


@pytest.mark.parametrize("change", ["shorter", "other"])
def test_a_file_that_changes_while_it_is_copied_is_an_error(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    source = tmp_path / "source"
    source.write_text("content")
    real = platform.copy_range

    def copy(*arguments: int) -> int:
        if change == "shorter":
            os.truncate(source, 3)
        else:
            os.utime(source, ns=(1, 1))
        return real(*arguments)

    monkeypatch.setattr(publish, "copy_range", copy)
    with (
        pytest.raises(StorageError, match="while it was read"),
        staged(output, is_folder=True, overwrite=False) as staging,
    ):
        staging.copy_file("copy", InputFile(source))
    assert names(output) == ["source"]


# --- what is synced when -------------------------------------------------------------------------


def test_everything_is_durable_before_it_has_its_name(
    output: Path, is_folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File, then its folder, then the name, then the folder of the name."""
    events = []

    def follow(module: ModuleType, name: str, tell: Callable[..., str]) -> None:
        real = getattr(module, name)

        def call(*arguments: int | Path) -> Any:
            events.append((name, tell(*arguments)))
            return real(*arguments)

        monkeypatch.setattr(module, name, call)

    follow(os, "fsync", lambda fd: str(Path(f"/proc/self/fd/{fd}").readlink()))
    follow(publish, "rename_new", lambda source, target: str(target))
    write(output, is_folder=is_folder)
    partial = partial_path(output)
    made = ["model.safetensors", "config.json", "sub/folder/file"] if is_folder else ["output"]
    folders = ["sub/folder", "sub"] if is_folder else []
    assert events == [
        *(("fsync", str(partial / name)) for name in [*made, *folders]),
        ("fsync", str(partial)),
        ("rename_new", str(output)),
        ("fsync", str(output.parent)),
    ]


@pytest.fixture(params=["renameat2", "no renameat2"])
def renaming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "renameat2":
        monkeypatch.setattr(platform, "_libc_function", lambda name: None)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_sync_that_fails_leaves_things_as_they_were(
    output: Path,
    is_folder: bool,
    monkeypatch: pytest.MonkeyPatch,
    overwrite: bool,
    number: int,
    renaming: str | None,
) -> None:
    """Each in turn, the last of all too: that the new name is on disk is not known then."""
    real = os.fsync
    for turn in range(1, 20):
        if overwrite and not output.exists():
            make_old(output, is_folder)
        left = [turn]

        def fsync(fd: int, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise OSError(number, os.strerror(number))
            real(fd)

        monkeypatch.setattr(os, "fsync", fsync)
        try:
            write(output, is_folder=is_folder, overwrite=overwrite)
        except StorageError:
            assert names(output) == (["output"] if overwrite else [])
            assert not overwrite or is_old(output, is_folder)
        else:
            assert turn > 3
            assert is_new(output, is_folder)
            return
    pytest.fail("it never succeeded")


# --- two runs ------------------------------------------------------------------------------------


def test_a_second_run_is_turned_away_while_the_first_is_alive(
    output: Path, is_folder: bool
) -> None:
    with staged(output, is_folder=is_folder, overwrite=False) as first:
        fill(first, is_folder)
        with pytest.raises(StorageError, match="another run is writing this output"):
            write(output, is_folder=is_folder)
        first.publish()
    assert is_new(output, is_folder)
    assert names(output) == ["output"]


def test_a_run_that_failed_lets_the_next_one_in(output: Path, is_folder: bool) -> None:
    try:
        write(output, is_folder=is_folder, meanwhile=failing(ValueError))
    except ValueError:  # which keeps the frames of that run alive
        write(output, is_folder=is_folder)
    assert is_new(output, is_folder)


def test_an_output_that_appears_meanwhile_is_left_as_it_is(
    output: Path, is_folder: bool, renaming: str | None
) -> None:
    with pytest.raises(OutputError, match="appeared while this run was at work"):
        write(output, is_folder=is_folder, meanwhile=lambda _: make_old(output, is_folder))
    assert is_old(output, is_folder)
    assert names(output) == ["output"]


@pytest.mark.parametrize("kind", ["link", "other kind", "folder of somebody"])
def test_what_appears_meanwhile_is_replaced_only_if_it_might_be_an_old_output(
    output: Path, is_folder: bool, kind: str
) -> None:
    def appear(_: Staging) -> None:
        if kind == "link":
            output.symlink_to("elsewhere")
        elif kind == "other kind":
            make_old(output, not is_folder)
        else:
            output.mkdir()
            (output / "thesis.tex").write_text("mine")

    with pytest.raises(OutputError):
        write(output, is_folder=is_folder, overwrite=True, meanwhile=appear)
    assert names(output) == ["output"]
    assert kind != "folder of somebody" or (output / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("when", ["before a file", "before the name", "before cleaning up"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_where_locks_lie_the_later_run_wins_and_nothing_is_mixed(
    output: Path, is_folder: bool, monkeypatch: pytest.MonkeyPatch, when: str, overwrite: bool
) -> None:
    """As on a network file system, whose locks reach no other machine."""
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda fd, how: None)
    if overwrite:
        make_old(output, is_folder)
    second = Staging(output, is_folder=is_folder, overwrite=overwrite)

    def begin(first: Staging) -> None:
        second.claim()
        fill(second, is_folder)
        if when == "before a file":
            first.write_file("more", b"first")
        elif when == "before cleaning up":
            raise StorageError("some other")

    with pytest.raises(StorageError, match=r"another run has begun|some other"):
        write(output, is_folder=is_folder, overwrite=overwrite, meanwhile=begin, text=b"first")
    assert names(output) == [".output.loratools-partial", *(["output"] if overwrite else [])]
    second.publish()
    assert is_new(output, is_folder)
    second.remove()
    assert names(output) == ["output"]


def test_a_run_removes_no_folder_that_another_has_made_since(output: Path, is_folder: bool) -> None:
    """Between the new name of one and its cleaning up, another may begin."""
    with staged(output, is_folder=is_folder, overwrite=True) as first:
        fill(first, is_folder)
        first.publish()
        if is_folder:
            with staged(output, is_folder=True, overwrite=True) as second:
                fill(second, is_folder)
                first.remove()
                first.release()
                second.publish()
    assert is_new(output, is_folder)
    assert names(output) == ["output"]


def test_an_old_output_on_its_way_out_is_locked(output: Path) -> None:
    """Its place is that of the partial folder: another run must wait until it is gone."""
    make_old(output, is_folder=True)
    with staged(output, is_folder=True, overwrite=True) as first:
        fill(first, is_folder=True)
        first.publish()
        with pytest.raises(StorageError, match="another run is writing this output"):
            write(output, is_folder=True, overwrite=True)
    assert names(output) == ["output"]


# --- errors, and folders that may not be written to ----------------------------------------------


def test_a_name_too_long_is_an_error_of_ours(tmp_path: Path) -> None:
    for length in (255, 256):
        with pytest.raises(StorageError, match="file name too long"):
            write(tmp_path / ("n" * length), is_folder=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_folder", [True, False])
def test_an_error_within_a_run_names_the_output_and_no_other_path_that_is_like_it(
    tmp_path: Path, is_folder: bool
) -> None:
    output = tmp_path / ("made" if is_folder else "made.safetensors")
    other = tmp_path / ".other.loratools-partial"
    with (
        pytest.raises(StorageError) as raised,
        staged(output, is_folder=is_folder, overwrite=False) as staging,
    ):
        raise StorageError(f"{staging.made}: torn, as {other} is", file=staging.made)
    assert str(raised.value) == f"{output}: torn, as {other} is"
    assert raised.value.file == str(output)


@pytest.fixture
def not_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a user for whom permissions count, as they do not for root."""
    monkeypatch.chdir(tmp_path)
    user = os.geteuid()
    if user == 0:
        os.chown(tmp_path, 65534, -1)
        os.seteuid(65534)
    yield Path()
    os.seteuid(user)


def test_nothing_is_left_of_a_read_only_folder_that_is_replaced(not_root: Path) -> None:
    old = not_root / "output"
    (old / "inner").mkdir(parents=True)
    (old / "inner/old.safetensors").touch()
    for folder in (old / "inner", old):
        folder.chmod(0o555)
    with staged(old, is_folder=True, overwrite=True) as staging:
        staging.write_file("new.safetensors", b"")
        staging.publish()
    assert [path.name for path in not_root.rglob("*")] == ["output", "new.safetensors"]
