"""The faults that a test can cause: each wraps the application for one request."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.hub.server.connection import Connection, drain
from tests.hub.server.fault import Fault, Sender


@dataclass(frozen=True)
class Status(Fault):
    """Send this answer instead of the application's, which does not run."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": "a fault of the test"}'

    def wrap(self, app: ASGIApp, connection: Connection) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await drain(receive)
            given = {"content-length": str(len(self.body)), **self.headers}
            headers = [(name.lower().encode(), value.encode()) for name, value in given.items()]
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            await send({"type": "http.response.body", "body": self.body})

        return answer


@dataclass(frozen=True)
class Before(Fault):
    """Run an action just before the application; it may use the Hub, also over HTTP."""

    action: Callable[[], object]

    def wrap(self, app: ASGIApp, connection: Connection) -> ASGIApp:
        async def later(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.to_thread(self.action)
            await app(scope, receive, send)

        return later


@dataclass(frozen=True)
class Reset(Fault):
    """Send a RST after so many bytes of the answer's body, or before the application if None."""

    after: int | None = None

    def wrap(self, app: ASGIApp, connection: Connection) -> ASGIApp:
        if self.after is not None:
            return super().wrap(app, connection)

        async def reset(scope: Scope, receive: Receive, send: Send) -> None:
            await drain(receive)  # else the client may fail while it still sends
            await connection.reset()

        return reset

    def sender(self, send: Send, connection: Connection) -> Sender:
        return _ended(send, connection, self.after or 0, connection.reset)


@dataclass(frozen=True)
class ResetUpload(Fault):
    """Send a RST after so many bytes of the request's body; the application does not run."""

    after: int

    def wrap(self, app: ASGIApp, connection: Connection) -> ASGIApp:
        async def reset(scope: Scope, receive: Receive, send: Send) -> None:
            await drain(receive, at_least=self.after)
            await connection.reset()

        return reset


@dataclass(frozen=True)
class Held(Fault):
    """Take no more of the request's body after so many bytes, until the event is set (10 s)."""

    after: int
    until: threading.Event

    def wrap(self, app: ASGIApp, connection: Connection) -> ASGIApp:
        async def holding(scope: Scope, receive: Receive, send: Send) -> None:
            taken, is_held = 0, False

            async def take() -> Message:
                nonlocal taken, is_held
                if taken > self.after and not is_held:
                    is_held = True
                    await asyncio.to_thread(self.until.wait, 10)
                message = await receive()
                taken += len(message.get("body", b""))
                return message

            await app(scope, take, send)

        return holding


@dataclass(frozen=True)
class Cut(Fault):
    """Send a FIN after so many bytes of the answer's body."""

    after: int

    def sender(self, send: Send, connection: Connection) -> Sender:
        return _ended(send, connection, self.after, connection.finish)


@dataclass(frozen=True)
class LostAnswer(Fault):
    """Send a RST instead of the answer, after the application has done its work."""

    def wrap(self, app: ASGIApp, connection: Connection) -> ASGIApp:
        async def silent(scope: Scope, receive: Receive, send: Send) -> None:
            async def swallow(message: Message) -> None:
                pass

            await app(scope, receive, swallow)
            await connection.reset()

        return silent


@dataclass(frozen=True)
class Slow(Fault):
    """Send the body at so many bytes a second."""

    bytes_per_second: int

    def sender(self, send: Send, connection: Connection) -> Sender:
        step = max(1, self.bytes_per_second // 20)

        async def slowly(message: Message) -> None:
            body = message.get("body", b"")
            for start in range(0, len(body), step):
                part = body[start : start + step]
                await connection.pause(len(part) / self.bytes_per_second)
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send(message if not body else {**message, "body": b""})

        return slowly


@dataclass(frozen=True)
class Stall(Fault):
    """Pause for so many seconds after so many bytes of the body, and then go on."""

    after: int
    seconds: float

    def sender(self, send: Send, connection: Connection) -> Sender:
        sent = 0

        async def stalling(message: Message) -> None:
            nonlocal sent
            body, before = message.get("body", b""), sent
            sent += len(body)
            if not before <= self.after < sent:
                return await send(message)
            cut = self.after - before
            await send({**message, "body": body[:cut], "more_body": True})
            await connection.pause(self.seconds)
            return await send({**message, "body": body[cut:]})

        return stalling


@dataclass(frozen=True)
class Flip(Fault):
    """Flip a bit of one byte of the body."""

    offset: int
    mask: int = 1

    def sender(self, send: Send, connection: Connection) -> Sender:
        sent = 0

        async def flipping(message: Message) -> None:
            nonlocal sent
            body = bytearray(message.get("body", b""))
            position, sent = self.offset - sent, sent + len(body)
            if 0 <= position < len(body):
                body[position] ^= self.mask
                message = {**message, "body": bytes(body)}
            await send(message)

        return flipping


@dataclass(frozen=True)
class Headers(Fault):
    """Replace headers of the answer; None removes one. For Content-Length use `Length`."""

    changed: Mapping[str, str | None]

    def sender(self, send: Send, connection: Connection) -> Sender:
        names = {name.lower().encode() for name in self.changed}
        given = [
            (name.lower().encode(), value.encode())
            for name, value in self.changed.items()
            if value is not None
        ]

        async def lying(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0].lower() not in names]
                message = {**message, "headers": kept + given}
            await send(message)

        return lying


@dataclass(frozen=True)
class Length(Fault):
    """Declare a wrong Content-Length: a longer body is cut, and after a shorter one comes a FIN."""

    declared: int

    def sender(self, send: Send, connection: Connection) -> Sender:
        lie = Headers({"Content-Length": str(self.declared)}).sender(send, connection)
        left = self.declared

        async def lying(message: Message) -> None:
            nonlocal left
            if message["type"] == "http.response.start" or connection.is_head:
                return await lie(message)
            body = message.get("body", b"")[:left]
            left -= len(body)
            is_last = not message.get("more_body", False)
            await send({**message, "body": body, "more_body": not is_last or left > 0})
            if is_last and left > 0:
                await connection.finish()
            return None

        return lying


@dataclass(frozen=True)
class Body(Fault):
    """Replace the application's body by `change` of it, with the right Content-Length."""

    change: Callable[[bytes], bytes]

    def sender(self, send: Send, connection: Connection) -> Sender:
        start: Message = {}
        parts: list[bytes] = []

        async def changing(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body", False):
                return
            body = self.change(b"".join(parts))
            length = Headers({"Content-Length": str(len(body))}).sender(send, connection)
            await length(start)
            await send({"type": "http.response.body", "body": body})

        return changing


@dataclass(frozen=True)
class Endless(Fault):
    """Continue the body with zeros for as long as the client reads, up to `at_most` bytes."""

    at_most: int

    def sender(self, send: Send, connection: Connection) -> Sender:
        start = Headers({"Content-Length": None}).sender(send, connection)

        async def endless(message: Message) -> None:
            if message["type"] == "http.response.start" or connection.is_head:
                return await start(message)
            if message.get("more_body", False):
                return await send(message)
            await send({**message, "more_body": True})
            piece = {"type": "http.response.body", "body": bytes(2**16), "more_body": True}
            for _ in range(0, self.at_most, 2**16):
                if connection.is_gone:
                    return None
                await send(piece)
            return await send({"type": "http.response.body"})

        return endless


def _ended(
    send: Send, connection: Connection, after: int, end: Callable[[], Awaitable[None]]
) -> Sender:
    """A sender that sends so many bytes of the body, and then ends the connection with `end`."""
    left = after

    async def ending(message: Message) -> None:
        nonlocal left
        body = message.get("body", b"")
        if message["type"] != "http.response.body" or (
            len(body) <= left and message.get("more_body", False)
        ):
            left -= len(body)
            return await send(message)
        await send({**message, "body": body[:left], "more_body": True})
        return await end()

    return ending
