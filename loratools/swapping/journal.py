"""The journal of a model's swaps, by which an interrupted one becomes old or new, never both.

A swap first makes the new bytes of all tensors, and copies of their original bytes, in the
journal's folder, and all of that durable. Then it writes into `state.json`, by one rename, what is
to be written from where. From that moment on, the swap is decided: the bytes are copied into the
weight files, and whoever finds them half copied copies them all once more. Before it, nothing of
the model has changed.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from loratools.errors import FormatError, StorageError
from loratools.files.swapped import STATE, TENSOR_FILE, SwapState, read_state, swap_folder
from loratools.io.checkpoint import Checkpoint
from loratools.io.failures import storage_errors
from loratools.io.platform import sync_folder
from loratools.io.publish import OpenFolder, claim_folder
from loratools.io.stopping import check_stop, finish, unfinished
from loratools.running.share import Span
from loratools.swapping.phases import COMPLETING
from loratools.swapping.rewriting import check_sources, header_digest, rewrite
from loratools.typed import completing_swap

_NEW_STATE = f"{STATE}.new"


@final
@dataclass
class Journal:
    """The journal of a model: its folder, which this run has locked, and the state in it."""

    base: Checkpoint
    folder: Path
    state: SwapState
    jobs: int | None
    was_interrupted: bool = False

    def new_name(self, kind: str) -> str:
        """A name for a file of tensors of this kind that the folder does not have."""
        number = 1
        while (self.folder / f"{kind}-{number}.safetensors").exists():
            number += 1
        return f"{kind}-{number}.safetensors"

    def begin(self, span: Span) -> None:
        """Prepare the folder: a new one gets a state, before anything else is put there.

        A swap that was interrupted is completed, of which `span` is told.

        Raises:
            StorageError, FormatError: it cannot be written, or a swap that was interrupted cannot
                be completed.
        """
        if not (self.folder / STATE).exists():
            with storage_errors(self.folder):
                # Who may read the model may read what it was, and nobody else.
                mode = self.base.shards[0].file.path.stat().st_mode & 0o777
                self.folder.chmod(mode | 0o700 | (mode & 0o444) >> 2)
            self._put(self.state)
            with storage_errors(self.folder):
                sync_folder(self.folder.parent)
        if self.state.is_interrupted:
            checking, writing = span.split(*COMPLETING)
            check_sources(self.folder, self.state, self.jobs, checking)
            self.complete(writing)
        with storage_errors(self.folder):
            self._remove_others(self.state.files)

    def decide(self, goal: SwapState, span: Span) -> None:
        """Make the model what `goal` says; all bytes for that are in the folder, durable, verified.

        What a callback of progress raises from now on, is raised when that is done.

        Raises:
            StorageError: the model is unchanged, or somebody else has changed it; or it could not
                be written, which the message says.
            FormatError: what is in the folder is damaged.
        """
        with storage_errors(self.folder):
            sync_folder(self.folder)
        # A change since the model was opened would be mixed with what is written now.
        for shard in self.base.shards:
            shard.file.check_unchanged()
        check_stop()  # for the last time: from the next line on, the swap is decided
        self._put(goal)
        finish()
        self.complete(span)

    def complete(self, span: Span) -> None:
        """Write all that is still to be written, verify it, and note that it is.

        A callback of progress can't stop this: what it raises is raised at the end.

        Raises:
            StorageError, FormatError: it cannot be written; the model may be a mixture.
        """
        with span.meter.unstoppable():
            self._complete_or_again(span)

    def _complete_or_again(self, span: Span) -> None:
        try:
            self._complete(span)
        except BaseException as error:
            # Once more: a device may have failed for a moment only, and Ctrl-C in a program that
            # calls a verb must not leave the model in the middle.
            try:
                self._complete(span)
            except (StorageError, FormatError) as again:
                where = self.base.where
                raise type(again)(
                    f"{again.complaint}, and {where} may be a mixture now",
                    file=again.file,
                    tensor=again.tensor,
                    hint=f"{completing_swap(where)} completes it",
                ) from again
            if not isinstance(error, StorageError):
                raise

    def _complete(self, span: Span) -> None:
        rewrite(self.base, self.folder, self.state, self.jobs, span)
        tensors = {name: replace(t, source=None) for name, t in self.state.tensors.items()}
        done = replace(self.state, tensors=tensors)
        self._replace(done)
        self.state = done

    def tidy(self) -> None:
        """Remove what was made for a swap that is over; all, if no adapter is in the model.

        What cannot be removed is left to the next swap.
        """
        with contextlib.suppress(OSError, FormatError, StorageError):
            # Read again: where a rename was interrupted, only the disk knows which state counts.
            state = read_state(self.folder)
            is_in_use = state is not None and not state.is_clean
            self._remove_others(state.files if state is not None and is_in_use else frozenset())
            if not is_in_use:
                # Last, since without it nobody would know what the others are for.
                (self.folder / STATE).unlink(missing_ok=True)
                self.folder.rmdir()

    def _remove_others(self, needed: frozenset[str]) -> None:
        for path in self.folder.iterdir():
            is_ours = TENSOR_FILE.fullmatch(path.name) or path.name == _NEW_STATE
            if is_ours and path.name not in needed:
                path.unlink()

    def _put(self, state: SwapState) -> None:
        """Replace `state.json` durably; where that fails, the old state is put back."""
        try:
            self._replace(state)
        except StorageError:
            with contextlib.suppress(StorageError):
                self._replace(self.state)
            raise
        self.state = state

    def _replace(self, state: SwapState) -> None:
        data, new = state.encode(), self.folder / _NEW_STATE
        with storage_errors(self.folder / STATE):
            with new.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.folder / STATE)
            sync_folder(self.folder)


@contextmanager
def journal_of(base: Checkpoint, jobs: int | None, completing: Span) -> Iterator[Journal]:
    """The journal of a model, locked; a swap that was interrupted is completed first.

    `completing` is told of that. The folder is made if need be, and removed at the end if no
    adapter is in the model then.

    Raises:
        StorageError: another run is at work on the model; or a file cannot be read or written.
        FormatError: the journal is damaged, or another model's.
    """
    folder = journal_folder(base)
    with unfinished():
        held = _claimed(folder)
        try:
            state = state_of(base)
            journal = Journal(base, folder, state, jobs, was_interrupted=state.is_interrupted)
            try:
                journal.begin(completing)
                yield journal
            finally:
                journal.tidy()
        finally:
            held.close()


def state_of(base: Checkpoint) -> SwapState:
    """The state of a model's swaps; that of a model in which there is none, where it has none.

    Raises:
        FormatError: it is damaged, or another model's.
        StorageError: it cannot be read.
    """
    folder = journal_folder(base)
    headers = {shard.name: header_digest(shard.file) for shard in base.shards}
    state = read_state(folder) if folder.is_dir() else None
    if state is not None and state.headers != headers:
        raise FormatError(
            f"{folder}: of another model, or the model's files were replaced",
            hint="remove this folder to keep the model as it is now",
        )
    return SwapState(headers) if state is None or state.is_clean else state


def journal_folder(base: Checkpoint) -> Path:
    """The path of the journal's folder of a model on this disk."""
    folder = swap_folder(base)
    assert folder is not None, base.where
    return folder


def _claimed(folder: Path) -> OpenFolder:
    try:
        with storage_errors(folder):
            return claim_folder(folder, keep=True)
    except StorageError as error:
        if not isinstance(error.__cause__, BlockingIOError):
            raise
        raise StorageError(f"{folder}: another run is swapping in this model") from error
