"""The layer between the socket and the application, which logs requests and lets faults strike."""

import re
import time
from collections.abc import Callable
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.hub.server.connection import Connection
from tests.hub.server.log import Logged, Origin
from tests.hub.server.state import Hub

HOUSEKEEPING = re.compile(r"/api/\w+-harnesses$")  # the client's statistics, once in a process


class Wire:
    """An ASGI application around the routes of one origin, which serves the current Hub."""

    def __init__(self, app: ASGIApp, origin: Origin, current: Callable[[], Hub]) -> None:
        self.app = app
        self.origin: Origin = origin
        self.current = current

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hub, request = self.current(), _logged(scope, self.origin)
        connection = Connection(scope, receive, send)
        # The routes see the quoted path, in which a branch with a slash is one segment.
        inner = {**scope, "path": request.path, "hub": hub}
        app = self.app
        if not HOUSEKEEPING.match(request.path):
            hub.log.requests.append(request)
            for rule in hub.rules:
                if rule.strikes(request):
                    request.faults.append(type(rule.fault).__name__)
                    app = rule.fault.wrap(app, connection)
        try:
            await app(inner, *_counted(request, connection))
        except ClientDisconnect:
            pass  # the client may leave whenever it likes
        except Exception as error:
            hub.errors.append(error)
            raise


def _logged(scope: Scope, origin: Origin) -> Logged:
    path = scope["raw_path"].decode("ascii")
    query = dict(parse_qsl(scope["query_string"].decode("ascii"), keep_blank_values=True))
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        before = headers.get(name.decode("latin-1"))
        text = value.decode("latin-1")
        headers[name.decode("latin-1")] = text if before is None else f"{before}, {text}"
    return Logged(origin, scope["method"], path, query, headers, time.monotonic())


def _counted(request: Logged, connection: Connection) -> tuple[Receive, Send]:
    async def receive() -> Message:
        message = await connection.receive()
        request.received += len(message.get("body", b""))
        return message

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            request.status = message["status"]
        elif not connection.is_head and not connection.is_gone:
            request.sent += len(message.get("body", b""))
        await connection.send(message)

    return receive, send
