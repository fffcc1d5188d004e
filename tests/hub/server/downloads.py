"""The handlers for downloads: small files are sent at once, large ones by the storage."""

import gzip
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tests.hub.server.answers import RefusedError
from tests.hub.server.hosted import File, Hosted
from tests.hub.server.ranges import content
from tests.hub.server.state import Hub


async def resolve(hub: Hub, request: Request) -> Response:
    repo = _opened(hub, request)
    path = unquote(request.path_params["path"])
    commit = repo.resolve(unquote(request.path_params["revision"]))
    file = repo.find(path, commit)
    headers = {"X-Repo-Commit": commit}
    if file.lfs is not None:
        headers |= {
            "X-Linked-Size": str(file.lfs.size),
            "X-Linked-Etag": f'"{file.lfs.sha256}"',
            "Location": hub.storage_endpoint
            + hub.signer.sign("GET", f"/{repo.id}/{file.lfs.sha256}"),
        }
        if hub.settings.xet:
            route = f"{hub.endpoint}/api/models/{repo.id}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": file.lfs.sha256, "X-Xet-Refresh-Route": route}
        return Response(status_code=302, headers=headers)
    if hub.settings.resolve_cache:
        location = f"/api/resolve-cache/models/{repo.id}/{commit}/{quote(path, safe='')}"
        headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.oid}"'}
        return Response(status_code=307, headers={**headers, "Location": location})
    return _small(hub, request, repo, file, headers)


async def resolve_cache(hub: Hub, request: Request) -> Response:
    repo = _opened(hub, request)
    commit = repo.resolve(request.path_params["revision"])
    file = repo.find(unquote(request.path_params["path"]), commit)
    return _small(hub, request, repo, file, {"X-Repo-Commit": commit})


def _opened(hub: Hub, request: Request) -> Hosted:
    """The repository of a request, if the caller may download its files."""
    repo, caller = hub.readable(request), hub.accounts.caller(request)
    if not repo.open_to(caller):
        said = f"Access to model {repo.id} is restricted and you are not in the authorized list."
        raise RefusedError(401 if caller is None else 403, said, "GatedRepo")
    return repo


def _small(
    hub: Hub, request: Request, repo: Hosted, file: File, headers: dict[str, str]
) -> Response:
    data, headers = repo.content(file), {**headers, "ETag": f'"{file.oid}"'}
    accepted = request.headers.get("accept-encoding", "")
    if hub.settings.compress and "gzip" in accepted and "range" not in request.headers:
        headers |= {"Content-Encoding": "gzip", "ETag": f'W/"{file.oid}"'}
        return StreamingResponse(iter([gzip.compress(data)]), headers=headers)
    return content(request, data, headers)
