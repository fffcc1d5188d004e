"""The Hub's answers to requests that it refuses."""

from typing import Any

from starlette.responses import JSONResponse


class RefusedError(Exception):
    """A refusal of a request: the status, and the message and the error code for the client."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        headers: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": message} if body is None else body
        said = message.encode("ascii", "backslashreplace").decode()
        self.headers = {"X-Error-Message": said, **(headers or {})}
        if code is not None:
            self.headers["X-Error-Code"] = code

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def not_signed_in() -> RefusedError:
    """A refusal of a request without a token, which hides whether the repository exists.

    It has no X-Error headers.
    """
    refusal = RefusedError(401, "Invalid username or password.")
    refusal.headers.clear()
    return refusal


def no_repository() -> RefusedError:
    return RefusedError(404, "Repository not found", "RepoNotFound")


def no_revision(revision: str) -> RefusedError:
    return RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def no_entry(path: str, commit: str) -> RefusedError:
    headers = {"X-Repo-Commit": commit}
    return RefusedError(404, f"Entry not found: {path}", "EntryNotFound", headers=headers)


def no_right() -> RefusedError:
    return RefusedError(403, "You don't have the required permissions")
