"""The umask for a while."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the umask, and set it back."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
