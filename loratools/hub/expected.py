"""What the Hub says of a file, held against what it lists, before the client stores anything.

The client makes paths of the ETag and of the commit in the answer, and looks at neither: whoever
answers would choose where on this disk the file goes, or under which other file's hash.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import final

import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.utils import _http

from loratools.errors import HubError
from loratools.hub.names import HubName

_TAG, _LINKED_TAG, _COMMIT = "ETag", "X-Linked-Etag", "X-Repo-Commit"


@final
@dataclass(frozen=True)
class _Expected:
    """A file at a commit, and its hash."""

    where: HubName
    digest: str


#: Of this thread, while it downloads: the session is shared with whoever else uses the client.
_EXPECTED: ContextVar[_Expected | None] = ContextVar("expected", default=None)


@contextmanager
def expecting(where: HubName, digest: str) -> Iterator[None]:
    """Refuse answers about another commit than that of `where`, or about another content.

    Raises:
        HubError: such an answer came; the client has stored nothing.
    """
    _FACTORY.install()
    before = _EXPECTED.set(_Expected(where, digest))
    try:
        yield
    finally:
        _EXPECTED.reset(before)


def _check(response: httpx2.Response) -> None:
    expected, headers = _EXPECTED.get(), response.headers
    if expected is None or response.request.method != "HEAD":
        return
    if headers.get(_COMMIT, expected.where.revision) != expected.where.revision:
        raise HubError(f"{expected.where}: the answer was for another commit")
    if response.is_redirect and _TAG in headers:
        del headers[_TAG]  # of the redirect, and not of the file
    said = headers.get(_LINKED_TAG) or headers.get(_TAG)
    if said is None or response.is_error:
        return
    if said.removeprefix("W/").strip('"') != expected.digest:
        raise HubError(f"{expected.where}: the answer was for another content than is listed")


class _Factory:
    """Makes the client's sessions, as the one before it does, and adds the check."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inner: Callable[[], httpx2.Client] = _http.default_client_factory

    def __call__(self) -> httpx2.Client:
        session = self._inner()
        hooks = session.event_hooks
        session.event_hooks = {**hooks, "response": [*hooks.get("response", []), _check]}
        return session

    def install(self) -> None:
        """Take the place of the program's own factory, which it may have set at any time."""
        with self._lock:
            if _http._GLOBAL_CLIENT_FACTORY is not self:
                self._inner = _http._GLOBAL_CLIENT_FACTORY
                set_client_factory(self)


_FACTORY = _Factory()
