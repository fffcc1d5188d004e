"""The base class of faults, and the rules that say which requests they strike."""

import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.hub.server.connection import Connection
from tests.hub.server.log import Logged, Origin

Sender = Callable[[Message], Awaitable[None]]


class Fault:
    """The base class of all faults, with which nothing goes wrong."""

    def wrap(self, app: ASGIApp, connection: Connection) -> ASGIApp:
        """The application with the fault in it, for one request."""

        async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, self.sender(send, connection))

        return faulty

    def sender(self, send: Send, connection: Connection) -> Sender:
        """The function that sends the messages of the answer, instead of `send`."""
        return send


@dataclass
class Rule:
    """The requests that a fault strikes, and how often it has struck.

    `path` is a regular expression that is searched for in the quoted path. Of the requests that
    match, the first `skip` are spared, and then `times` are struck, or all if it is None.
    """

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
