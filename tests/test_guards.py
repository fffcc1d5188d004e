"""The guards around the tests hold."""

import socket
import urllib.request
from collections.abc import Callable

import pytest

from tests.oracles import oracle


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection(("192.0.2.1", 9)),  # an address for examples
        lambda: _connect_ex("192.0.2.1"),
        lambda: socket.getaddrinfo("example.org", 80),
        lambda: urllib.request.urlopen("http://example.org"),
    ],
    ids=["connection", "code", "name", "url"],
)
def test_no_test_reaches_the_network(reach: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, OSError), match="must not use the network"):
        reach()


def test_a_test_may_talk_to_itself() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(("localhost", server.getsockname()[1])) as client,
    ):
        assert client.getpeername() == server.getsockname()


def test_missing_oracle_skips_unless_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORATOOLS_REQUIRE_ORACLES", raising=False)
    with pytest.raises(pytest.skip.Exception):
        oracle("a_peer_that_nobody_has")
    monkeypatch.setenv("LORATOOLS_REQUIRE_ORACLES", "1")
    with pytest.raises(ModuleNotFoundError):
        oracle("a_peer_that_nobody_has")


def _connect_ex(host: str) -> int:
    with socket.socket() as client:
        return client.connect_ex((host, 9))
