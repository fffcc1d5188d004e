"""A small text file, replaced whole: whoever reads it sees the old text or the new one."""

import os
import threading
from pathlib import Path

from loratools.errors import storage_errors
from loratools.io.stopping import check_stop, unfinished


def replace_text(path: Path, text: str, *, is_durable: bool = True) -> None:
    """Write a file under a name of its own, which no other run or thread has, and rename it.

    What only saves time later need not be durable: after a loss of power it may be empty.

    Raises:
        StorageError: it cannot be written; the old text is in place, and nothing beside it.
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
    check_stop()
