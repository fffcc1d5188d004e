"""The client's HTTP session, guarded: where the token goes, and how much comes back.

Every request and every answer of ours passes here: redirects, pages of a listing, and addresses
that an answer names. So neither has to be thought of where something is asked.

The session is shared with whoever else uses the client in this process; theirs is left alone.
"""

import re
import threading
from collections.abc import Callable, Iterator
from typing import final

import httpx2
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils import _http
from huggingface_hub.utils._xet import parse_xet_file_data_from_response

from loratools.errors import AnswerError
from loratools.hub.expected import check_headers, expected_size
from loratools.hub.token import quoted

#: What our requests call themselves; the client sends it with each of them.
LIBRARY = "loratools"
#: Bytes of an answer that is no file: a listing has about 300 an entry, and 1000 entries a page.
LONGEST_ANSWER = 32 * 2**20
LONGEST_WAIT_SECONDS = 60
#: Until an answer begins or goes on; where the client sets no limit of its own.
_PATIENCE_SECONDS = {"connect": 30.0, "read": 120.0, "write": 120.0, "pool": 120.0}
_SECRETS = ("Authorization", "Cookie")
#: «RateLimit: "api";r=0;t=55»: nothing more for 55 seconds.
_RESET = re.compile(r";\s*t\s*=\s*(\d+)")


def install() -> None:
    """Guard the session, also where the program has set a factory of its own meanwhile."""
    _FACTORY.install()


def _is_ours(request: httpx2.Request) -> bool:
    """Whether a request is made for us: it says so, or it is an upload to a storage.

    Those are sent from the client's own threads and name no client at all.
    """
    agent = request.headers.get("User-Agent", "")
    is_upload = request.method in {"PUT", "POST"} and "hf_hub/" not in agent
    return agent.startswith(f"{LIBRARY}/") or is_upload


def _outgoing(request: httpx2.Request) -> None:
    if not _is_ours(request):
        return
    if not _is_at_endpoint(request.url):
        for name in _SECRETS:
            request.headers.pop(name, None)
    # A compressed answer can become a thousand times longer than what came.
    request.headers["Accept-Encoding"] = "identity"
    given = request.extensions.get("timeout", {})
    waits = {name: given.get(name) or seconds for name, seconds in _PATIENCE_SECONDS.items()}
    request.extensions = {**request.extensions, "timeout": waits}


def _incoming(response: httpx2.Response) -> None:
    request = response.request
    if not _is_ours(request):
        return
    _wait_briefly(response.headers)
    _keep_token_from_xet(response)
    if request.method == "HEAD":
        check_headers(response)
        return
    where = quoted(f"{request.url.host}{request.url.path}")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        if response.is_success:
            raise AnswerError(
                f"{where}: sent compressed ({quoted(encoding)}), which was not asked for"
            )
        del response.headers["Content-Encoding"]
        response.stream = httpx2.ByteStream(b"")  # its status says enough
    size = expected_size() if response.is_success else None
    assert isinstance(response.stream, httpx2.SyncByteStream)
    response.stream = _Limited(response.stream, LONGEST_ANSWER if size is None else size, where)


def _is_at_endpoint(url: httpx2.URL) -> bool:
    """Whether an address has the endpoint's scheme, host and port."""
    endpoint = httpx2.URL(constants.ENDPOINT)
    return (url.scheme, url.host, url.port) == (endpoint.scheme, endpoint.host, endpoint.port)


def _wait_briefly(headers: httpx2.Headers) -> None:
    """Cut short the pause that the Hub asks for: the client would wait for years."""
    reset = _RESET.search(headers.get("RateLimit", ""))
    if reset is not None and _is_long(reset[1]):
        del headers["RateLimit"]
        headers["Retry-After"] = reset[1]
    if _is_long(headers.get("Retry-After", "").strip()):
        headers["Retry-After"] = str(LONGEST_WAIT_SECONDS)


def _is_long(seconds: str) -> bool:
    return seconds.isdecimal() and (len(seconds) > 9 or int(seconds) > LONGEST_WAIT_SECONDS)


def _keep_token_from_xet(response: httpx2.Response) -> None:
    """Without Xet, if its address is not the Hub's: hf_xet would send it the token by itself."""
    xet = parse_xet_file_data_from_response(response)
    if xet is not None and not _is_at_endpoint(httpx2.URL(xet.refresh_route)):
        del response.headers[constants.HUGGINGFACE_HEADER_X_XET_HASH]


@final
class _Limited(httpx2.SyncByteStream):
    """The bytes of an answer, of which only so many may come."""

    def __init__(self, inner: httpx2.SyncByteStream, limit: int, where: str) -> None:
        self._inner, self._limit, self._where = inner, limit, where

    def __iter__(self) -> Iterator[bytes]:
        count = 0
        for chunk in self._inner:
            count += len(chunk)
            if count > self._limit:
                raise AnswerError(
                    f"{self._where}: sends more than {self._limit} bytes, which is all"
                )
            yield chunk

    def close(self) -> None:
        """End the connection's part in it."""
        self._inner.close()


class _Factory:
    """Makes the client's sessions, as the one before it does, and adds the guard."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inner: Callable[[], httpx2.Client] = _http.default_client_factory

    def __call__(self) -> httpx2.Client:
        session = self._inner()
        hooks = session.event_hooks
        session.event_hooks = {
            "request": [*hooks.get("request", []), _outgoing],
            "response": [*hooks.get("response", []), _incoming],
        }
        return session

    def install(self) -> None:
        """Take the place of the program's own factory, which it may have set at any time."""
        with self._lock:
            if _http._GLOBAL_CLIENT_FACTORY is not self:
                self._inner = _http._GLOBAL_CLIENT_FACTORY
                set_client_factory(self)


_FACTORY = _Factory()
