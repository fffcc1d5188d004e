"""Files that the client reads as it sends them: how far it is with each is told meanwhile."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, final

from huggingface_hub import CommitOperationAdd

from loratools.hub.xet import Told


@final
class Sending(CommitOperationAdd):
    """The client's operation for a file or bytes; `told` hears how much of a file was sent."""

    def __init__(self, name: str, content: Path | bytes, told: Told) -> None:
        super().__init__(name, content)
        self.told = told

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
        """The file that the client reads as it sends it; we draw the bars."""
        if isinstance(self.path_or_fileobj, str):
            with _Reader(self.path_or_fileobj, self.told) as file:
                yield file
        else:
            with super().as_file() as file:
                yield file


@final
class _Reader(io.BufferedReader):
    """A file that tells, whenever some of it is asked for, how much was taken before."""

    def __init__(self, path: str, told: Told) -> None:
        super().__init__(io.FileIO(path))
        self._told = told

    def read(self, size: int | None = -1, /) -> bytes:
        """Tell the position, and read."""
        self._told(self.tell())
        return super().read(size)
