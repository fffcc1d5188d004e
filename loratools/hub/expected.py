"""Compare an answer about a file with the listing, before the client stores anything.

The client makes paths in its cache from the ETag and the commit in the answer, unchecked: whoever
answers could choose where on this disk the file goes, or store it under another file's hash.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import final

import httpx2

from loratools.errors import HubError
from loratools.hub.names import HubFile, HubName

_TAG, _LINKED_TAG, _COMMIT = "ETag", "X-Linked-Etag", "X-Repo-Commit"


@final
@dataclass(frozen=True)
class Expected:
    """A file at a commit, its hash (None for a part of it), and the most bytes that may come."""

    where: HubName
    digest: str | None
    size: int


#: Set for the thread that downloads only: everybody in this process shares the client's session.
_EXPECTED: ContextVar[Expected | None] = ContextVar("expected", default=None)


@contextmanager
def expecting(where: HubName, file: HubFile) -> Iterator[None]:
    """Refuse answers about another commit than that of `where`, another hash, or more bytes.

    Raises:
        HubError: such an answer came; the client has stored no byte beyond the expected size.
    """
    with _set(Expected(where, file.digest, file.size)):
        yield


@contextmanager
def expecting_bytes(where: HubName, count: int) -> Iterator[None]:
    """Refuse answers longer than `count` bytes, with a HubError."""
    with _set(Expected(where, None, count)):
        yield


@contextmanager
def _set(expected: Expected) -> Iterator[None]:
    before = _EXPECTED.set(expected)
    try:
        yield
    finally:
        _EXPECTED.reset(before)


def expected_file() -> Expected | None:
    """The file, or a part of one, that this thread expects, if it does."""
    return _EXPECTED.get()


def check_headers(response: httpx2.Response) -> None:
    """Compare the commit and the hash in an answer's headers with those of the expected file.

    Raises:
        HubError: one of them differs.
    """
    expected, headers = _EXPECTED.get(), response.headers
    if expected is None or expected.digest is None:
        return
    if headers.get(_COMMIT, expected.where.revision) != expected.where.revision:
        raise HubError(f"{expected.where}: the answer was for another commit")
    if response.is_redirect and _TAG in headers:
        del headers[_TAG]  # the hash of the redirect's own body, not of the file
    said = headers.get(_LINKED_TAG) or headers.get(_TAG)
    if said is None or response.is_error:
        return
    if said.removeprefix("W/").strip('"') != expected.digest:
        raise HubError(f"{expected.where}: the answer was for another content than is listed")
