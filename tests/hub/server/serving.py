"""Serves two origins on loopback, the Hub and its storage, in a thread of this process."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from tests.hub.server import routes
from tests.hub.server.log import Origin
from tests.hub.server.state import Hub
from tests.hub.server.wire import Wire


class Server:
    """The listening sockets, which serve one Hub after the other: `hub` is the current one."""

    def __init__(self) -> None:
        # They listen before anybody learns the port: a client may be quicker than uvicorn.
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        for listening in self.sockets:
            # Else a body waits 40 ms until the client has acknowledged the headers.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.hub: Hub | None = None

    def fresh(self, root: Path) -> Hub:
        """Make an empty Hub, which is served from now on."""
        endpoint, storage = (f"http://127.0.0.1:{s.getsockname()[1]}" for s in self.sockets)
        self.hub = Hub(root, endpoint, storage)
        return self.hub

    def current(self) -> Hub:
        assert self.hub is not None, "a request came before the first Hub was made"
        return self.hub

    def origin(self, table: list[tuple[str, str, routes.Handler]], name: Origin) -> uvicorn.Server:
        config = uvicorn.Config(
            Wire(routes.application(table), name, self.current),
            http="h11",  # whose protocol `connection` reaches into
            ws="none",
            loop="asyncio",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="critical",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=3600,
        )
        return uvicorn.Server(config)


@contextmanager
def running() -> Iterator[Server]:
    """Yield a server that answers until the end of the block."""
    server = Server()
    origins = [server.origin(routes.HUB, "hub"), server.origin(routes.STORAGE, "storage")]

    async def serve() -> None:
        pairs = zip(origins, server.sockets, strict=True)
        await asyncio.gather(*(origin.serve(sockets=[s]) for origin, s in pairs))

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="hub", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        for origin in origins:
            origin.should_exit = origin.force_exit = True
        thread.join(10)
