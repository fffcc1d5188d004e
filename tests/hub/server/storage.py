"""The storage of large files: an origin of its own with signed URLs, and uploads to it."""

import hashlib
import math
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.hub.server.answers import RefusedError
from tests.hub.server.hosted import Hosted
from tests.hub.server.ranges import content
from tests.hub.server.state import Hub, repo_id

# --- on the Hub ---------------------------------------------------------------------------------


async def batch(hub: Hub, request: Request) -> Response:
    """Answer for each object whether it is stored already, and else where to upload it."""
    asked = await request.json()
    repo, _ = hub.proposable(request)  # the objects of a proposal come this way too
    if asked["operation"] != "upload":
        raise RefusedError(400, "only uploads are asked for here")
    in_parts = "multipart" in asked.get("transfers", [])
    objects = [_place(hub, repo, item, in_parts=in_parts) for item in asked["objects"]]
    return JSONResponse({"transfer": "multipart" if in_parts else "basic", "objects": objects})


def _place(hub: Hub, repo: Hosted, item: dict[str, Any], *, in_parts: bool) -> dict[str, Any]:
    oid, size, part = item["oid"], item["size"], hub.settings.part_size
    if repo.store.size(oid) is not None:
        return {"oid": oid, "size": size}
    path = f"/{repo.id}/{oid}"
    if in_parts and part is not None and size > part:
        numbers = range(1, math.ceil(size / part) + 1)
        header = {
            f"{number:05}": hub.storage_endpoint + hub.signer.sign("PUT", f"{path}/{number}")
            for number in numbers
        }
        href = hub.endpoint + hub.signer.sign("POST", f"/api/complete{path}")
        upload: dict[str, Any] = {"href": href, "header": {"chunk_size": str(part), **header}}
    else:
        upload = {"href": hub.storage_endpoint + hub.signer.sign("PUT", path)}
    verify = {"href": f"{hub.endpoint}/{repo.id}.git/info/lfs/objects/verify"}
    return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}


async def complete(hub: Hub, request: Request) -> Response:
    """Join the parts of an upload to the file that they are parts of."""
    _signed(hub, request)
    asked, repo = await request.json(), hub.repos[repo_id(request)]
    oid, whole = request.path_params["sha256"], repo.store.arrival()
    with whole.open("wb") as file:
        for number, part in enumerate(asked["parts"], start=1):
            path = _part(repo, oid, number)
            data = path.read_bytes() if path.is_file() else None
            if data is None or part != {"partNumber": number, "etag": _etag(data)}:
                raise RefusedError(400, f"part {number} is not there, or is another")
            file.write(data)
    if hashlib.sha256(whole.read_bytes()).hexdigest() != oid or asked["oid"] != oid:
        raise RefusedError(400, "the parts are not the content of this sha256")
    repo.store.accept(whole, oid)
    return JSONResponse({"success": True})


async def verify(hub: Hub, request: Request) -> Response:
    asked = await request.json()
    repo, _ = hub.proposable(request)  # the objects of a proposal come this way too
    if repo.store.size(asked["oid"]) != asked["size"]:
        raise RefusedError(404, "this content has not arrived")
    return JSONResponse({})


# --- on the storage -----------------------------------------------------------------------------


async def get(hub: Hub, request: Request) -> Response:
    repo = _stored(hub, request)
    path = repo.store.path(request.path_params["sha256"])
    if not path.is_file():
        raise RefusedError(404, "NoSuchKey")
    return content(request, path, {"ETag": f'"{path.name[:32]}"'})


async def put(hub: Hub, request: Request) -> Response:
    repo = _stored(hub, request)
    arrived, oid = await _received(repo, request), request.path_params["sha256"]
    with arrived.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != oid:
            raise RefusedError(400, "XAmzContentSHA256Mismatch")
    repo.store.accept(arrived, oid)
    return Response()


async def put_part(hub: Hub, request: Request) -> Response:
    repo = _stored(hub, request)
    arrived = await _received(repo, request)
    path = _part(repo, request.path_params["sha256"], int(request.path_params["number"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    arrived.replace(path)
    return Response(headers={"ETag": _etag(path.read_bytes())})


def _stored(hub: Hub, request: Request) -> Hosted:
    """The repository of a signed URL. Like S3, the storage refuses a token in addition to it."""
    if "authorization" in request.headers:
        raise RefusedError(400, "Only one auth mechanism allowed")
    _signed(hub, request)
    repo = hub.repos.get(repo_id(request))
    if repo is None:
        raise RefusedError(404, "NoSuchKey")
    return repo


def _signed(hub: Hub, request: Request) -> None:
    method = "GET" if request.method == "HEAD" else request.method
    signature = request.query_params.get("Signature", "")
    if not hub.signer.holds(method, request.scope["path"], signature):
        raise RefusedError(403, "SignatureDoesNotMatch")


async def _received(repo: Hosted, request: Request) -> Path:
    arrived = repo.store.arrival()
    with arrived.open("wb") as file:
        async for piece in request.stream():
            file.write(piece)
    return arrived


def _part(repo: Hosted, oid: str, number: int) -> Path:
    return repo.store.folder / "parts" / oid / str(number)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
