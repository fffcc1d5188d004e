"""The client's HTTP session, guarded: where the token goes, and how much comes back.

Every request and every answer of ours passes here: redirects, pages of a listing, and addresses
that an answer names. So the code that asks need not think of either.

The session is shared with everybody who uses the client in this process; only our requests, which
name loratools as their sender, are touched.
"""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import final

import httpx2
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils import _http
from huggingface_hub.utils._xet import parse_xet_file_data_from_response

from loratools.errors import AnswerError
from loratools.hub.expected import check_headers, expected_file
from loratools.hub.token import quoted
from loratools.running.work import current_work

#: The name of the sender in our requests' User-Agent header.
LIBRARY = "loratools"
#: The most bytes of an answer that is no file: a listing has about 300 an entry, and 1000 entries
#: a page.
LONGEST_ANSWER = 32 * 2**20
LONGEST_WAIT_SECONDS = 60
#: How long to wait for the next step of a request, where the client sets no limit of its own.
_PATIENCE_SECONDS = {"connect": 30.0, "read": 120.0, "write": 120.0, "pool": 120.0}
#: Headers that carry secrets.
_SECRETS = ("Authorization", "Cookie")
#: The header `RateLimit: "api";r=0;t=55` says: no more requests for 55 seconds.
_RESET = re.compile(r";\s*t\s*=\s*(\d+)")
#: The header of an answer that goes on with a file, `Content-Range: bytes 5000-9999/10000`.
_BEGIN = re.compile(r"bytes (\d{1,18})-")


def install() -> None:
    """Guard the client's session, even if the program has set its own session factory since."""
    _FACTORY.install()


def _is_ours(request: httpx2.Request) -> bool:
    """Whether a request is ours: its User-Agent says so, or it is an upload to a storage server.

    Uploads are sent from the client's own threads and name no client at all.
    """
    agent = request.headers.get("User-Agent", "")
    is_upload = request.method in {"PUT", "POST"} and "hf_hub/" not in agent
    return agent.startswith(f"{LIBRARY}/") or is_upload


def _outgoing(request: httpx2.Request) -> None:
    """The hook on requests: take secrets out of those to other servers; set limits of time.

    Work that was given up asks for nothing more, not even once again what has failed.
    """
    if not _is_ours(request):
        return
    if (work := current_work()) is not None:
        work.check()
    if not _is_at_endpoint(request.url):
        for name in _SECRETS:
            request.headers.pop(name, None)
    # A compressed answer can become a thousand times longer than the bytes that are counted.
    request.headers["Accept-Encoding"] = "identity"
    given = request.extensions.get("timeout", {})
    waits = {name: given.get(name) or seconds for name, seconds in _PATIENCE_SECONDS.items()}
    request.extensions = {**request.extensions, "timeout": waits}


def _incoming(response: httpx2.Response) -> None:
    """The hook on answers: check headers before the client acts on them; limit the length."""
    request = response.request
    if not _is_ours(request):
        return
    _wait_briefly(response.headers)
    _keep_token_from_xet(response)
    if request.method == "HEAD":  # so the client asks for the hash and the commit of a file
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
        response.stream = httpx2.ByteStream(b"")  # an error: its status says enough
    expected = expected_file() if response.is_success else None
    limit = LONGEST_ANSWER if expected is None else expected.size
    response.stream = _Limited(response, limit, where, expected and expected.where.path)


def _is_at_endpoint(url: httpx2.URL) -> bool:
    """Whether an address has the endpoint's scheme, host and port."""
    endpoint = httpx2.URL(constants.ENDPOINT)
    return (url.scheme, url.host, url.port) == (endpoint.scheme, endpoint.host, endpoint.port)


def _wait_briefly(headers: httpx2.Headers) -> None:
    """Limit the pause that an answer asks for, since the client would wait for years."""
    reset = _RESET.search(headers.get("RateLimit", ""))
    if reset is not None and _is_long(reset[1]):
        del headers["RateLimit"]
        headers["Retry-After"] = reset[1]
    if _is_long(headers.get("Retry-After", "").strip()):
        headers["Retry-After"] = str(LONGEST_WAIT_SECONDS)


def _is_long(seconds: str) -> bool:
    return seconds.isdecimal() and (len(seconds) > 9 or int(seconds) > LONGEST_WAIT_SECONDS)


def _keep_token_from_xet(response: httpx2.Response) -> None:
    """Have the client do without hf_xet where that would send the token to another server.

    hf_xet has connections of its own, which no hook sees.
    """
    xet = parse_xet_file_data_from_response(response)
    if xet is not None and not _is_at_endpoint(httpx2.URL(xet.refresh_route)):
        del response.headers[constants.HUGGINGFACE_HEADER_X_XET_HASH]


@final
class _Limited(httpx2.SyncByteStream):
    """The bytes of an answer; raises `AnswerError` when more than `limit` have come.

    Those of the file `name` are noted by the work that they are for, and end when it is given up.
    """

    def __init__(self, response: httpx2.Response, limit: int, where: str, name: str | None) -> None:
        assert isinstance(response.stream, httpx2.SyncByteStream)
        self._inner, self._limit, self._where, self._name = response.stream, limit, where, name
        found = _BEGIN.match(response.headers.get("Content-Range", ""))
        self._begin = int(found[1]) if found else 0
        self._connection = response.extensions.get("network_stream")

    def __iter__(self) -> Iterator[bytes]:
        work, count = current_work(), 0
        with nullcontext() if work is None else work.woken(self._hang_up):
            for chunk in self._inner:
                count += len(chunk)
                if count > self._limit:
                    raise AnswerError(
                        f"{self._where}: sends more than {self._limit} bytes, the most expected"
                    )
                if work is not None and self._name is not None:
                    work.note(self._name, self._begin + count)
                yield chunk

    def _hang_up(self) -> None:
        """Have a thread that waits for more bytes learn, by an error, that none will come."""
        connection = self._connection and self._connection.get_extra_info("socket")
        if connection is not None:
            with suppress(OSError):  # it is closed already
                # That of an SSLSocket would take away the state that the other thread reads with.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the stream of the connection."""
        self._inner.close()


class _Factory:
    """A session factory for the client: the previous factory's sessions, with our hooks."""

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
        """Take the place of the current factory, which the program may set at any time."""
        with self._lock:
            # The client has a function to set the factory, and none to ask for it.
            if _http._GLOBAL_CLIENT_FACTORY is not self:
                self._inner = _http._GLOBAL_CLIENT_FACTORY
                set_client_factory(self)


_FACTORY = _Factory()
