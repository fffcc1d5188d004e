"""A log of all requests: their answers, and how many bytes were sent each way."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

Origin = Literal["hub", "storage"]


@dataclass
class Logged:
    """A request. `path` is as sent, still quoted; header names are in lower case.

    `status` is None if the connection was reset before an answer. `received` and `sent` count the
    bytes of bodies only, as they were read from the socket and written to it: after a reset the
    client may have seen fewer.
    """

    origin: Origin
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    time: float  # seconds of a monotonic clock
    status: int | None = None
    received: int = 0
    sent: int = 0
    faults: list[str] = field(default_factory=list)  # those that struck, by name

    def __str__(self) -> str:
        return f"{self.origin}: {self.method} {self.path} -> {self.status}"


class Log(Sequence[Logged]):
    """The requests since the server's state was made, in the order in which they came."""

    def __init__(self, requests: Sequence[Logged] = ()) -> None:
        self.requests = list(requests)

    def of(self, method: str | None = None, path: str = "", origin: Origin | None = None) -> "Log":
        """The requests with this method and origin, and a match of the expression in the path."""
        return Log(
            [
                request
                for request in self.requests
                if method in (None, request.method)
                and origin in (None, request.origin)
                and re.search(path, request.path)
            ]
        )

    @property
    def received(self) -> int:
        """The number of bytes in the bodies of all requests."""
        return sum(request.received for request in self.requests)

    @property
    def sent(self) -> int:
        """The number of bytes in the bodies of all answers."""
        return sum(request.sent for request in self.requests)

    def clear(self) -> None:
        self.requests.clear()

    @overload
    def __getitem__(self, index: int) -> Logged: ...

    @overload
    def __getitem__(self, index: slice) -> list[Logged]: ...

    def __getitem__(self, index: int | slice) -> Logged | list[Logged]:
        return self.requests[index]

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Logged]:
        return iter(list(self.requests))

    def __repr__(self) -> str:
        return "\n".join(map(str, self.requests)) or "no request"
