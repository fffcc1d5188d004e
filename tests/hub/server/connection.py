"""The TCP connection of a request, which can be closed with a FIN or reset with a RST."""

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from typing import Any

from starlette.types import Message, Receive, Scope, Send

PATIENCE = 5.0  # seconds until what does not happen is given up


class Connection:
    """The connection of one request, reached through uvicorn's h11 protocol.

    After the end of the connection `send` does nothing, so that a handler can go on.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.cycle: Any = send.__self__  # type: ignore[attr-defined]
        self.transport: asyncio.Transport = self.cycle.transport
        self.is_head = scope["method"] == "HEAD"
        self.ended = False
        self._receive, self._send = receive, send

    async def receive(self) -> Message:
        return await self._receive()

    async def send(self, message: Message) -> None:
        if not self.ended:
            await self._send(message)

    @property
    def is_gone(self) -> bool:
        return self.ended or self.cycle.disconnected

    async def reset(self) -> None:
        """End the connection with a RST, once the client's kernel has received all data."""
        self.ended = True
        await self._until(self._delivered)
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):  # the client may have left already
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()
        await self._until(lambda: self.cycle.disconnected)

    async def finish(self) -> None:
        """End the connection with a FIN after all that was sent."""
        self.ended = True
        self.transport.close()
        await self._until(lambda: self.cycle.disconnected)

    async def pause(self, seconds: float) -> None:
        """Wait so many seconds, or until the client has closed the connection."""
        await self._until(lambda: self.is_gone, seconds)

    @property
    def _socket(self) -> Any:
        return self.transport.get_extra_info("socket")

    def _delivered(self) -> bool:
        if self.transport.is_closing():
            return True
        if self.transport.get_write_buffer_size():
            return False
        waiting = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        return struct.unpack("i", waiting) == (0,)

    async def _until(self, condition: Any, seconds: float = PATIENCE) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not condition() and (left := end - loop.time()) > 0:
            await asyncio.sleep(min(0.005, left))


async def drain(receive: Receive, at_least: int | None = None) -> None:
    """Read a request's body: all of it, or `at_least` so many bytes."""
    received = 0
    while at_least is None or received < at_least:
        message = await receive()
        received += len(message.get("body", b""))
        if not message.get("more_body", False):
            return
