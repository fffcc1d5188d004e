"""All or nothing: an output appears complete and durable under its name, or not at all.

It is made in one sibling folder with a fixed name, `.<name>.loratools-partial`, and renamed when
every file in it is on disk. A kill can leave that folder, and the next run on the same output
removes it; a lock on it keeps a second run out while the first is alive. Where locks do not reach
(two machines on one network file system), the run that finds its folder replaced gives up.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import final

from loratools.errors import LoratoolsError, OutputError, StorageError, escaped
from loratools.io.failures import storage_errors
from loratools.io.file import InputFile
from loratools.io.inside import entries
from loratools.io.platform import copy_range, exchange, lock_folder, rename_new, sync_folder
from loratools.io.stopping import check_stop, finish, unfinished

#: The number of descriptors reserved for removing a folder with its subfolders.
_SPARE = 8


@final
class Staging:
    """A folder in the making: files are put into `folder`, then `publish` gives it its name."""

    def __init__(
        self, output: Path, *, is_folder: bool, overwrite: bool, resume: bool = False
    ) -> None:
        self.output = output
        self.folder = partial_path(output)
        self.is_folder = is_folder
        self._overwrite = overwrite
        self._resume = resume
        self._is_published = False
        self._held: list[OpenFolder] = []
        self._spare: list[int] = []

    @property
    def made(self) -> Path:
        """The path at which the output is made: the folder, or the file in it."""
        return self.folder if self.is_folder else self.folder / self.output.name

    def claim(self) -> None:
        """Make and lock the folder; remove what a killed run left there, or resume it."""
        with storage_errors(self.folder):
            # Reserved before anything is made, which can then be removed even if no more files can
            # be opened. One is given back at once, for the descriptor of the folder itself.
            for _ in range(_SPARE):
                self._spare.append(os.open(os.devnull, os.O_RDONLY))
            os.close(self._spare.pop())
            try:
                self._held.append(claim_folder(self.folder, keep=self._resume))
            except NotADirectoryError as error:
                # In backticks, in which `names_output` leaves the folder its name.
                raise StorageError(
                    f"{self.output}: is made in the folder `{self.folder.name}` beside it, and what"
                    " has that name is no folder",
                    file=self.output,
                    hint="remove that, or name another output",
                ) from error

    def names_output(self, error: LoratoolsError) -> None:
        """Let an error about the folder, or a file in it, name the output that was asked for."""
        folder, name = (re.escape(escaped(str(path))) for path in (self.folder, self.output.name))
        inside = "" if self.is_folder else rf"(?:[/\\]{name}(?=$|:))?"
        error.renames(re.compile(f"(?<!`){folder}{inside}"), str(self.output))

    def remove(self) -> None:
        """Remove `folder` with what is in it: after an exchange, the old output.

        A folder that can be resumed stays, unless its output has been published.
        """
        while self._spare:
            os.close(self._spare.pop())
        if self._is_held() and (self._is_published or not self._resume):
            _remove(self.folder)

    def release(self) -> None:
        """Give up the locks, so that another run can use the folder's name."""
        for held in self._held:
            held.close()
        self._held.clear()

    def path(self, name: str) -> Path:
        """The path at which a file of the output is made; the folders on the way are there."""
        self._check_held()
        path = self.folder / name
        if not path.parent.is_dir():
            with storage_errors(path.parent):
                path.parent.mkdir(parents=True)
        return path

    def write_file(self, name: str, data: bytes) -> None:
        """Write a small file, and make it durable."""
        path = self.path(name)
        with storage_errors(path), path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def copy_file(self, name: str, original: InputFile) -> None:
        """Copy a file, and make the copy durable; its permissions are those of a new file."""
        path = self.path(name)
        with storage_errors(path), path.open("xb") as file:
            with original.used() as fd:
                copied = copy_range(fd, 0, file.fileno(), 0, original.size)
            if copied != original.size:
                raise StorageError(
                    f"{original.where}: became shorter while it was read", file=original.where
                )
            os.fsync(file.fileno())
        original.check_unchanged()

    def publish(self) -> None:
        """Give the finished output its name, in one step.

        Raises:
            OutputError: something of that name has appeared meanwhile.
            StorageError: the file system failed; the old content, if any, is in place.
        """
        made = self.made
        with storage_errors(self.output):
            # Before the rename: otherwise it could become durable earlier than the entries here.
            for folder, _, _ in os.walk(self.folder, topdown=False):
                sync_folder(Path(folder))
            self._check_held()
            check_stop()  # for the last time: an output that has its name is finished
            if self._overwrite and os.path.lexists(self.output):
                self._replace(made)
            else:
                rename_new(made, self.output)
                self._sync_name(partial(rename_new, self.output, made))
        self._is_published = True
        finish()

    def _replace(self, made: Path) -> None:
        check_replaceable(self.output, is_folder=self.is_folder)
        if self.is_folder:
            # After the exchange it is at `folder`, where `remove` removes only what this run holds.
            self._held.append(OpenFolder(self.output))
        exchange(made, self.output)
        self._sync_name(partial(exchange, made, self.output))

    def _sync_name(self, undo: Callable[[], None]) -> None:
        """Make the output's new name durable; where that fails, undo the rename and raise."""
        try:
            sync_folder(self.output.parent)
        except OSError:
            undo()
            raise

    def _is_held(self) -> bool:
        """Whether the folder at the staging path is one that this run has locked."""
        return any(held.is_at(self.folder) for held in self._held)

    def _check_held(self) -> None:
        if not self._is_held():
            raise StorageError(
                f"{self.output}: another run has begun to write this output", file=self.output
            )


@contextmanager
def staged(
    output: Path, *, is_folder: bool, overwrite: bool, resume: bool = False
) -> Iterator[Staging]:
    """A staging folder for `output`, which is removed at the end, whatever happens in the block.

    With `resume` it may hold what an earlier run left, and it stays if this one does not finish.

    Raises:
        StorageError: another run is at work on the same output, or the folder cannot be made.
    """
    staging = Staging(output, is_folder=is_folder, overwrite=overwrite, resume=resume)
    with unfinished():
        try:
            staging.claim()
            yield staging
        except LoratoolsError as error:
            staging.names_output(error)
            raise
        finally:
            try:
                staging.remove()
            except BaseException:  # Ctrl-C in a program that calls a verb: finish the removal first
                staging.remove()
                raise
            finally:
                staging.release()


def _remove(folder: Path) -> None:
    """Remove a folder with what is in it, also from folders that were made read-only."""
    for inner, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            Path(inner).chmod(0o700)  # names in a folder are removed by writing to it
    shutil.rmtree(folder, ignore_errors=True)


def partial_path(output: Path) -> Path:
    """The path of the staging folder in which an output is made."""
    return output.with_name(f".{output.name}.loratools-partial")


def finished_path(path: Path) -> str:
    """The path that a file in a staging folder gets when its output is finished; else its own."""
    return re.sub(r"\.([^/\\]+)\.loratools-partial(?:[/\\]\1$)?", r"\1", str(path))


def check_replaceable(output: Path, *, is_folder: bool) -> None:
    """Refuse to replace anything that does not look like an earlier output.

    Raises:
        OutputError: it is a link, of the other kind, or a folder without safetensors files.
    """
    if output.is_symlink():
        raise OutputError(f"{output}: a link", hint="name the folder or file itself")
    if not (output.is_dir() if is_folder else output.is_file()):
        kind = "folder" if is_folder else "file"
        raise OutputError(
            f"{output}: not a {kind}, and the output is one", hint="name another output"
        )
    if not is_folder:
        return
    names = entries(output, 1)  # the components of a pipeline have folders of their own
    if any(output.iterdir()) and not any(name.endswith(".safetensors") for name in names):
        raise OutputError(
            f"{output}: a folder without safetensors files is not replaced",
            hint="name another output, or remove it first",
        )


@final
class OpenFolder:
    """A folder that is open and locked, and is therefore recognised if it is renamed.

    Where folders cannot be opened, any folder that is asked about is taken for this one.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._fd: int | None = lock_folder(folder)
        except BlockingIOError as error:
            raise StorageError(
                f"{folder}: another run is writing this output", file=folder
            ) from error

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder, which releases the lock."""
        fd, self._fd = getattr(self, "_fd", None), None
        if fd is not None:
            os.close(fd)

    def is_at(self, path: Path) -> bool:
        """Whether the open folder is the one that is now at `path`."""
        try:
            return self._fd is None or os.path.samestat(path.lstat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False


def claim_folder(folder: Path, *, keep: bool) -> OpenFolder:
    """Make and lock a folder; one that is there already is removed first, unless `keep` is set."""
    while True:
        try:
            folder.mkdir()
            is_new = True
        except FileExistsError:
            is_new = False
        try:
            held = OpenFolder(folder)
        except FileNotFoundError:
            continue  # another run has removed it in between
        # The run that held the lock may have renamed or removed the folder before letting go.
        if (is_new or keep) and held.is_at(folder):
            return held
        if held.is_at(folder):
            # A killed run has left it, since nobody else has its lock. Remove it, and begin again.
            shutil.rmtree(folder)
