"""The handlers that describe a repository: its metadata, trees, paths, refs and commits."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.hub.server.answers import no_entry
from tests.hub.server.cards import metadata
from tests.hub.server.hosted import File, Hosted
from tests.hub.server.repository import Commit
from tests.hub.server.state import Hub


async def model_info(hub: Hub, request: Request) -> Response:
    repo = hub.readable(request)
    revision = unquote(request.path_params.get("revision", "main"))
    commit = repo.resolve(revision)
    told = described(repo, commit, with_blobs=_asks(request, "blobs"))
    if wanted := request.query_params.getlist("expand"):
        told = {key: value for key, value in told.items() if key in {"id", "_id", *wanted}}
    return JSONResponse(told)


def described(repo: Hosted, commit: str, *, with_blobs: bool) -> dict[str, Any]:
    files = repo.files(commit)
    readme = files.get("README.md")
    card = None if readme is None else metadata(repo.content(readme).decode())
    history = list(repo.git.history(commit))
    return {
        "_id": repo.id,
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.namespace,
        "sha": commit,
        "lastModified": moment(history[0].time),
        "createdAt": moment(history[-1].time),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": list((card or {}).get("tags") or []),
        **({} if card is None else {"cardData": card}),
        "siblings": [_sibling(file, with_blobs=with_blobs) for file in files.values()],
        "usedStorage": sum(file.size for file in files.values()),
    }


async def tree(hub: Hub, request: Request) -> Response:
    repo = hub.readable(request)
    commit = repo.resolve(unquote(request.path_params["revision"]))
    folder = unquote(request.path_params.get("path", "")).strip("/")
    entries = repo.git.entries(commit)
    if folder and not any(entry.is_folder and entry.path == folder for entry in entries):
        raise no_entry(folder, commit)
    start = f"{folder}/" if folder else ""
    deep = _asks(request, "recursive")
    listed = [
        entry
        for entry in entries
        if entry.path.startswith(start) and (deep or "/" not in entry.path[len(start) :])
    ]
    page, headers = _page(hub, request, listed)
    paths = [entry.path for entry in page]
    return JSONResponse(
        items(repo, commit, paths, expand=_asks(request, "expand")), headers=headers
    )


async def paths_info(hub: Hub, request: Request) -> Response:
    repo = hub.readable(request)
    commit = repo.resolve(unquote(request.path_params["revision"]))
    if request.headers.get("content-type", "").startswith("application/json"):
        asked = await request.json()
        paths, expand = asked["paths"], bool(asked.get("expand"))
    else:
        form = _form((await request.body()).decode())
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() in TRUE
    return JSONResponse(items(repo, commit, paths, expand=expand))


async def refs(hub: Hub, request: Request) -> Response:
    git = hub.readable(request).git
    answer = {
        "branches": _refs("refs/heads/", git.refs("refs/heads/")),
        "tags": _refs("refs/tags/", git.refs("refs/tags/")),
        "converts": [],
    }
    if _asks(request, "include_prs"):
        pulls = git.refs("refs/pr/")
        answer["pullRequests"] = [
            {"name": f"refs/pr/{number}", "ref": f"refs/pr/{number}", "targetCommit": commit}
            for number, commit in pulls.items()
        ]
    return JSONResponse(answer)


async def commits(hub: Hub, request: Request) -> Response:
    repo = hub.readable(request)
    history = list(repo.git.history(repo.resolve(unquote(request.path_params["revision"]))))
    page, headers = _page(hub, request, history)
    return JSONResponse([_told(commit) for commit in page], headers=headers)


def items(repo: Hosted, commit: str, paths: Iterable[str], *, expand: bool) -> list[dict[str, Any]]:
    """The JSON objects of the files and folders at these paths; unknown paths are left out."""
    entries = {entry.path: entry for entry in repo.git.entries(commit)}
    found = [entries[path] for path in paths if path in entries]
    told: list[dict[str, Any]] = []
    for entry in found:
        if entry.is_folder:
            told.append({"type": "directory", "oid": entry.oid, "size": 0, "path": entry.path})
        else:
            told.append(_item(repo.file(entry.path, entry.oid)))
    if expand:
        for item in told:
            item["lastCommit"] = _last_commit(repo, commit, item["path"], item["oid"])
    return told


def moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


TRUE = {"1", "true"}
T = TypeVar("T")


def _asks(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() in TRUE


def _form(body: str) -> dict[str, list[str]]:
    return parse_qs(body, keep_blank_values=True)


def _page(hub: Hub, request: Request, listed: Sequence[T]) -> tuple[Sequence[T], dict[str, str]]:
    """One page of a listing, and the header with the link to the next page, if there is one."""
    start, size = int(request.query_params.get("cursor", "0")), hub.settings.page_size
    page = listed[start : start + size]
    if start + size >= len(listed):
        return page, {}
    query = urlencode({**request.query_params, "cursor": start + size})
    return page, {"Link": f'<{hub.endpoint}{request.scope["path"]}?{query}>; rel="next"'}


def _sibling(file: File, *, with_blobs: bool) -> dict[str, Any]:
    if not with_blobs:
        return {"rfilename": file.path}
    told: dict[str, Any] = {"rfilename": file.path, "blobId": file.oid, "size": file.size}
    if file.lfs is not None:
        told["lfs"] = {
            "sha256": file.lfs.sha256,
            "size": file.lfs.size,
            "pointerSize": file.stored,
        }
    return told


def _item(file: File) -> dict[str, Any]:
    told: dict[str, Any] = {
        "type": "file",
        "oid": file.oid,
        "size": file.size,
        "path": file.path,
    }
    if file.lfs is not None:
        told["lfs"] = {"oid": file.lfs.sha256, "size": file.lfs.size, "pointerSize": file.stored}
    return told


def _last_commit(repo: Hosted, commit: str, path: str, oid: str) -> dict[str, Any]:
    """The JSON object of the last commit that changed an entry."""
    last = repo.git.read_commit(commit)
    for before in repo.git.history(commit):
        if (path, oid) not in {(entry.path, entry.oid) for entry in repo.git.entries(before.oid)}:
            break
        last = before
    return {"id": last.oid, "title": last.title, "date": moment(last.time)}


def _refs(prefix: str, commits: dict[str, str]) -> list[dict[str, str]]:
    return [
        {"name": name, "ref": prefix + name, "targetCommit": commit}
        for name, commit in commits.items()
    ]


def _told(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.message.partition("\n")[2].strip(),
        "date": moment(commit.time),
        "authors": [{"user": commit.author}],
    }
