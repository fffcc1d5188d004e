"""What is expected of an answer about a file, compared before the client stores anything.

The client makes paths of the ETag and of the commit in the answer, and looks at neither: whoever
answers would choose where on this disk the file goes, or under which other file's hash.
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
class _Expected:
    """A file at a commit, its hash unless only a part of it is asked for, and how much may come."""

    where: HubName
    digest: str | None
    size: int


#: Of this thread, while it downloads: the session is shared with whoever else uses the client.
_EXPECTED: ContextVar[_Expected | None] = ContextVar("expected", default=None)


@contextmanager
def expecting(where: HubName, file: HubFile) -> Iterator[None]:
    """Refuse answers about another commit than that of `where`, another content, or a longer one.

    Raises:
        HubError: such an answer came; the client has stored nothing of what is too much.
    """
    with _set(_Expected(where, file.digest, file.size)):
        yield


@contextmanager
def expecting_bytes(where: HubName, count: int) -> Iterator[None]:
    """Refuse answers that are longer."""
    with _set(_Expected(where, None, count)):
        yield


@contextmanager
def _set(expected: _Expected) -> Iterator[None]:
    before = _EXPECTED.set(expected)
    try:
        yield
    finally:
        _EXPECTED.reset(before)


def expected_size() -> int | None:
    """How many bytes may come; None where no file is expected."""
    expected = _EXPECTED.get()
    return None if expected is None else expected.size


def check_headers(response: httpx2.Response) -> None:
    """Compare the commit and the hash in an answer about the file that is expected.

    Raises:
        HubError: they are others.
    """
    expected, headers = _EXPECTED.get(), response.headers
    if expected is None or expected.digest is None:
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
