"""What a fault is, and which requests it strikes."""

import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.hub.server.connection import Connection
from tests.hub.server.log import Logged, Origin

Sender = Callable[[Message], Awaitable[None]]


class Fault:
    """The base of all: nothing goes wrong."""

    def wrap(self, app: ASGIApp, connection: Connection) -> ASGIApp:
        """The application with the fault."""

        async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, self.sender(send, connection))

        return faulty

    def sender(self, send: Send, connection: Connection) -> Sender:
        """What the answer's messages go through."""
        return send


@dataclass
class Rule:
    """Which requests a fault strikes, and how often it did."""

    fault: Fault
    path: str
    method: str | None
    origin: Origin | None
    skip: int
    times: int | None
    hits: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def strikes(self, request: Logged) -> bool:
        if self.method not in (None, request.method) or self.origin not in (None, request.origin):
            return False
        if not re.search(self.path, request.path):
            return False
        with self.lock:
            if self.skip > 0:
                self.skip -= 1
                return False
            if self.times is not None and self.hits >= self.times:
                return False
            self.hits += 1
        return True
