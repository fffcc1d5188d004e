"""The accounts of a Hub: users with tokens for reading or writing, and their organizations."""

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
    """The user of a request, with the role of the token that was sent."""

    name: str
    role: Role
    organizations: tuple[str, ...]

    def is_in(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.organizations


@dataclass
class Accounts:
    """All tokens, each with its user."""

    by_token: dict[str, Caller] = field(default_factory=dict)

    def add(self, caller: Caller) -> str:
        """Add a token and return it: always the same for the same caller, and after `CANARY`."""
        token = CANARY + hashlib.sha256(repr(caller).encode()).hexdigest()[:28]
        self.by_token[token] = caller
        return token

    def caller(self, request: Request) -> Caller | None:
        """The caller to whom the request's token belongs; None for a request without a token.

        Raises:
            RefusedError: there is no such token.
        """
        authorization = request.headers.get("authorization")
        if authorization is None:
            return None
        caller = self.by_token.get(authorization.removeprefix("Bearer "))
        if caller is None:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return caller
