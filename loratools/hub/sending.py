"""Files that the client sends: how far it is with each is told meanwhile, and an error stops it.

The client sends a file in one of two ways. It reads the file itself, from `as_file` of its
operation; or hf_xet reads it, in threads of its own, and reports to a callback. The client gives it
one only where it draws bars, and so we give ours to its session.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO, final

from huggingface_hub import CommitOperationAdd
from huggingface_hub.utils import _xet

#: A callback for the bytes of a file that are done, called by any thread. What it raises stops the
#: work on the file.
Told = Callable[[int], object]


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


@contextmanager
def telling(operations: Sequence[Sending]) -> Iterator[None]:
    """Have hf_xet tell how far it is, if the client gives it these files in this thread."""
    tolds = {str(Path(str(one.path_or_fileobj)).absolute()): one.told for one in operations}
    before = _TOLDS.set(tolds)
    try:
        yield
    finally:
        _TOLDS.reset(before)


@final
class _Session:
    """hf_xet's session, of which each upload tells how far it is."""

    def __init__(self, inner: Any, tolds: Mapping[str, Told]) -> None:
        self._inner, self._tolds = inner, tolds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def new_upload_commit(self, **settings: Any) -> Any:
        """Begin an upload, with our callback in the place of the client's."""
        upload = _Upload(self._tolds)
        upload.inner = self._inner.new_upload_commit(**{**settings, "progress_callback": upload})
        return upload.inner


@final
class _Upload:
    """The callback of an upload by hf_xet, which stops the upload for an error."""

    def __init__(self, tolds: Mapping[str, Told]) -> None:
        self.inner: Any = None
        self._tolds = tolds

    def __call__(self, whole: object, files: Mapping[Any, Any]) -> None:
        try:
            for file in files.values():
                if file.item_name in self._tolds:
                    self._tolds[file.item_name](file.bytes_completed)
        except Exception:
            if self.inner is not None:  # else at the next call, a tenth of a second later
                self._tolds = {}
                # In another thread: it waits for the one that makes this call.
                Thread(target=self.inner.abort).start()


#: What hf_xet is to tell of the files that the client sends in this thread, by their paths.
_TOLDS: ContextVar[Mapping[str, Told] | None] = ContextVar("_TOLDS", default=None)
_inner_session: Callable[[], Any] = _xet.get_xet_session


def _session() -> Any:
    inner, tolds = _inner_session(), _TOLDS.get()
    return inner if tolds is None else _Session(inner, tolds)


# The client has no way to set the callback. It looks the function up here for each upload.
_xet.get_xet_session = _session
