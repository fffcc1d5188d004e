"""hf_xet, which sends and fetches some files for the client: made to tell and to stop.

It works in threads of its own and reports to a callback, which the client gives it only where it
draws bars; and it waits until all is done. So the client gets a session of ours around its own.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Thread
from typing import Any, final

from huggingface_hub.utils import _xet

from loratools.running.work import Work, current_work

#: A callback for the bytes of a file that are done, called by any thread. What it raises stops the
#: work on the file.
Told = Callable[[int], object]


@contextmanager
def telling(tolds: Mapping[str, Told]) -> Iterator[None]:
    """Have hf_xet tell how far it is with files that this thread sends, by their paths."""
    before = _TOLDS.set({str(Path(path).absolute()): told for path, told in tolds.items()})
    try:
        yield
    finally:
        _TOLDS.reset(before)


@final
class _Session:
    """The session of hf_xet for a thread that does `work`."""

    def __init__(self, inner: Any, work: Work) -> None:
        self._inner, self._work = inner, work

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def new_upload_commit(self, **settings: Any) -> Any:
        """Begin an upload, with our callback in the place of the client's."""
        upload = _Upload(_TOLDS.get({}))
        upload.inner = self._inner.new_upload_commit(**{**settings, "progress_callback": upload})
        return upload.inner

    @contextmanager
    def new_file_download_group(self, **settings: Any) -> Iterator[Any]:
        """Begin downloads, which end in error when the work is given up."""
        group = self._inner.new_file_download_group(**settings)
        with self._work.woken(group.abort), group:
            yield group


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
_TOLDS: ContextVar[Mapping[str, Told]] = ContextVar("_TOLDS")
_inner_session: Callable[[], Any] = _xet.get_xet_session


def _session() -> Any:
    inner, work = _inner_session(), current_work()
    return inner if work is None else _Session(inner, work)


def install() -> None:
    """Have the client take our session: it has no way to set a callback, or to stop."""
    _xet.get_xet_session = _session  # which it looks up here for each upload and download
