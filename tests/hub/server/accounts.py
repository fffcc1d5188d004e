"""Who asks: users with tokens that may read or write, and their organizations."""

import hashlib
from dataclasses import dataclass, field
from typing import Literal

from starlette.requests import Request

from tests.hub.server.answers import RefusedError

Role = Literal["read", "write"]

#: In every token: where it turns up in a file or in a log, a token has leaked.
CANARY = "hf_canary"


@dataclass(frozen=True)
class Caller:
    """A user by one of their tokens."""

    name: str
    role: Role
    organizations: tuple[str, ...]

    def is_in(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.organizations


@dataclass
class Accounts:
    """All tokens."""

    by_token: dict[str, Caller] = field(default_factory=dict)

    def add(self, caller: Caller) -> str:
        """A token, always the same for the same caller; all begin with what `CANARY` says."""
        token = CANARY + hashlib.sha256(repr(caller).encode()).hexdigest()[:28]
        self.by_token[token] = caller
        return token

    def caller(self, request: Request) -> Caller | None:
        """Who the request's token belongs to; None without one.

        Raises:
            RefusedError: nobody has this token.
        """
        authorization = request.headers.get("authorization")
        if authorization is None:
            return None
        caller = self.by_token.get(authorization.removeprefix("Bearer "))
        if caller is None:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return caller
