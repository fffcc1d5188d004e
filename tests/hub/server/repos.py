"""The handlers for accounts and repositories: whoami, create, delete, settings, README checks."""

import shutil
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.hub.server import cards
from tests.hub.server.accounts import Caller
from tests.hub.server.answers import RefusedError, no_repository, no_right, not_signed_in
from tests.hub.server.state import Hub


async def whoami(hub: Hub, request: Request) -> Response:
    caller = _signed_in(hub, request)
    return JSONResponse(
        {
            "type": "user",
            "id": caller.name,
            "name": caller.name,
            "fullname": caller.name,
            "orgs": [{"type": "org", "name": name} for name in caller.organizations],
            "auth": {
                "type": "access_token",
                "accessToken": {"displayName": f"{caller.name}'s token", "role": caller.role},
            },
        }
    )


async def create(hub: Hub, request: Request) -> Response:
    caller, asked = _signed_in(hub, request), await request.json()
    id = _owned(caller, asked)
    visibility = asked.get("visibility") or ("private" if asked.get("private") else "public")
    url = f"{hub.endpoint}/{id}"
    if id in hub.repos:
        said = "You already created this model repo"
        body = {"error": said, "url": url}
        raise RefusedError(409, said, body=body)
    hub.create_repo(id, private=visibility == "private")
    return JSONResponse({"url": url, "name": id, "id": id})


async def delete(hub: Hub, request: Request) -> Response:
    caller, asked = _signed_in(hub, request), await request.json()
    namespace = asked.get("organization") or caller.name
    repo = hub.repos.get(f"{namespace}/{asked['name']}")
    if repo is None or not repo.shown_to(caller):
        raise no_repository()
    _owned(caller, asked)
    del hub.repos[repo.id]
    shutil.rmtree(repo.folder)
    return Response("OK")


async def settings(hub: Hub, request: Request) -> Response:
    repo, _ = hub.writable(request)
    asked = await request.json()
    if "visibility" in asked:
        repo.private = asked["visibility"] == "private"
    if "private" in asked:
        repo.private = bool(asked["private"])
    if "gated" in asked:
        repo.gated = asked["gated"]
    return JSONResponse({"private": repo.private, "gated": repo.gated})


async def validate_yaml(_hub: Hub, request: Request) -> Response:
    """Check a README; no token is needed."""
    errors, warnings = cards.problems((await request.json())["content"])
    told = {
        "errors": [{"message": message} for message in errors],
        "warnings": [{"message": message} for message in warnings],
    }
    return JSONResponse(told, 400 if errors else 200)


def _signed_in(hub: Hub, request: Request) -> Caller:
    caller = hub.accounts.caller(request)
    if caller is None:
        raise not_signed_in()
    return caller


def _owned(caller: Caller, asked: dict[str, Any]) -> str:
    """The id of the repository in a request, which must be in a namespace of the caller."""
    if asked.get("type") not in (None, "model"):
        raise RefusedError(400, "this Hub has models only")
    namespace = asked.get("organization") or caller.name
    if caller.role != "write" or not caller.is_in(namespace):
        raise no_right()
    return f"{namespace}/{asked['name']}"
