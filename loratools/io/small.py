"""Small files: read whole, up to a limit; replaced as a whole, so that nobody reads half of one."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loratools.errors import FormatError, StorageError
from loratools.io.failures import storage_errors
from loratools.io.file import InputFile
from loratools.io.platform import lock_folder
from loratools.io.stopping import check_stop, unfinished

_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.02


def read_small(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Raises:
        FormatError: the file does not exist, is a folder, a pipe or a device, or is larger.
        StorageError: the file cannot be read.
    """
    file = InputFile(path)
    if file.size > limit:
        raise FormatError(f"{path}: {file.size} bytes, where at most {limit} are read")
    return file.read(0, file.size)


def replace_text(path: Path, text: str, *, is_durable: bool = True) -> None:
    """Replace a file: write a temporary one, whose name no other run or thread uses; rename it.

    A file that only saves time later need not be durable: after a loss of power it may be empty.

    Raises:
        StorageError: the file cannot be written; the old text is in place, and nothing beside it.
    """
    made = path.with_name(f".{os.getpid()}-{threading.get_ident()}.loratools-partial")
    with unfinished(), storage_errors(path):
        try:
            with made.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                if is_durable:
                    os.fsync(file.fileno())
            made.replace(path)
        finally:
            made.unlink(missing_ok=True)
    check_stop()  # a signal that came in the block above has waited for its end


@contextmanager
def only_one_in(folder: Path) -> Iterator[None]:
    """Lock a folder while a small file in it is read and written anew.

    Other programs and threads wait for the lock, for a minute at most. Where folders cannot be
    locked, as on Windows, nobody waits.

    Raises:
        StorageError: somebody else holds the lock for longer.
    """
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            with storage_errors(folder):
                fd = lock_folder(folder.resolve())
            break
        except StorageError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            if time.monotonic() > end:
                raise StorageError(
                    f"{folder}: another program holds it", hint="try again"
                ) from None
        time.sleep(_PAUSE_SECONDS)
    try:
        yield
    finally:
        if fd is not None:
            os.close(fd)
