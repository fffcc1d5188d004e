"""The handlers for pull requests, branches and tags."""

from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.hub.server.accounts import Caller
from tests.hub.server.answers import RefusedError, no_revision
from tests.hub.server.hosted import Hosted, PullRequest
from tests.hub.server.listings import moment
from tests.hub.server.repository import UnfitNameError
from tests.hub.server.state import Hub


def opened(
    hub: Hub, repo: Hosted, caller: Caller, *, base: str, title: str, description: str
) -> PullRequest:
    """Open a pull request as a draft, with its ref at the commit `base`."""
    number = len(repo.pulls) + 1
    pull = PullRequest(number, title, description, caller.name, base, "draft", hub.tick())
    repo.pulls.append(pull)
    repo.git.point(pull.ref, base)
    return pull


async def open_discussion(hub: Hub, request: Request) -> Response:
    asked = await request.json()
    repo, caller = hub.proposable(request)
    if not asked.get("pullRequest"):
        raise RefusedError(400, "this Hub has no discussions but pull requests")
    base = repo.resolve("main")
    title, text = asked["title"], asked.get("description", "")
    pull = opened(hub, repo, caller, base=base, title=title, description=text)
    return JSONResponse({"num": pull.number, **_summary(repo, pull)})


async def discussions(hub: Hub, request: Request) -> Response:
    repo = hub.readable(request)
    status = request.query_params.get("status")
    found = [_summary(repo, pull) for pull in repo.pulls if status in (None, pull.status)]
    return JSONResponse({"discussions": found, "count": len(found), "start": 0})


async def discussion(hub: Hub, request: Request) -> Response:
    repo = hub.readable(request)
    pull = _pull(repo, request)
    event = {
        "id": f"{repo.id}#{pull.number}",
        "type": "comment",
        "createdAt": moment(pull.time),
        "author": {"name": pull.author},
        "data": {"edited": False, "hidden": False, "latest": {"raw": pull.description}},
    }
    return JSONResponse(
        {
            **_summary(repo, pull),
            "events": [event],
            "changes": {"base": "refs/heads/main"},
            "filesWithConflicts": _conflicts(repo, pull),
            "diff": "",
        }
    )


async def change_status(hub: Hub, request: Request) -> Response:
    asked = await request.json()
    repo, caller = hub.writable(request)
    pull = _pull(repo, request)
    pull.status = asked["status"]
    event = {
        "id": f"{repo.id}#{pull.number}-{pull.status}",
        "type": "status-change",
        "createdAt": moment(hub.tick()),
        "author": {"name": caller.name},
        "data": {"status": pull.status},
    }
    return JSONResponse({"newStatus": event})


async def merge(hub: Hub, request: Request) -> Response:
    """Commit the changes of a pull request to main, as one commit."""
    repo, caller = hub.writable(request)
    pull = _pull(repo, request)
    if pull.status != "open":
        raise RefusedError(409, f"the pull request is {pull.status}")
    with repo.git.lock:
        if conflicts := _conflicts(repo, pull):
            raise RefusedError(409, f"conflicts in {', '.join(conflicts)}")
        tip = repo.resolve("main")
        files = repo.git.files(tip)
        for path, oid in _changes(repo, pull.base, pull.ref).items():
            if oid is None:
                files.pop(path, None)
            else:
                files[path] = oid
        message = f"{pull.title} (#{pull.number})"
        repo.git.commit(
            "refs/heads/main",
            files,
            expected=tip,
            author=caller.name,
            message=message,
            time=hub.tick(),
        )
        pull.status = "merged"
    return JSONResponse({"success": True})


async def create_branch(hub: Hub, request: Request) -> Response:
    asked = await request.json()
    repo, _ = hub.writable(request)
    name = unquote(request.path_params["branch"])
    commit = repo.resolve(asked.get("startingPoint") or "main")
    if repo.git.target(f"refs/heads/{name}") is not None:
        raise RefusedError(409, f"Reference already exists: refs/heads/{name}")
    _named(lambda: repo.git.point(f"refs/heads/{name}", commit), name)
    return JSONResponse({"success": True})


async def delete_branch(hub: Hub, request: Request) -> Response:
    repo, _ = hub.writable(request)
    name = unquote(request.path_params["branch"])
    if name == "main":
        raise RefusedError(403, "Cannot delete branch main")
    _drop(repo, f"refs/heads/{name}")
    return JSONResponse({"success": True})


async def create_tag(hub: Hub, request: Request) -> Response:
    asked = await request.json()
    repo, caller = hub.writable(request)
    commit, name = repo.resolve(unquote(request.path_params["revision"])), asked["tag"]
    if repo.git.target(f"refs/tags/{name}") is not None:
        raise RefusedError(409, f"Tag reference exists already: {name}")
    message, time = asked.get("message"), hub.tick()
    _named(lambda: repo.git.tag(name, commit, author=caller.name, message=message, time=time), name)
    return JSONResponse({"success": True})


async def delete_tag(hub: Hub, request: Request) -> Response:
    repo, _ = hub.writable(request)
    _drop(repo, f"refs/tags/{unquote(request.path_params['revision'])}")
    return JSONResponse({"success": True})


def _named(write: Any, name: str) -> None:
    try:
        write()
    except UnfitNameError as error:
        raise RefusedError(400, f"Invalid reference name: {name}") from error


def _drop(repo: Hosted, ref: str) -> None:
    if repo.git.target(ref) is None:
        raise no_revision(ref)
    repo.git.drop(ref)


def _pull(repo: Hosted, request: Request) -> PullRequest:
    number = int(request.path_params["number"])
    if not 1 <= number <= len(repo.pulls):
        raise RefusedError(404, "Discussion not found")
    return repo.pulls[number - 1]


def _summary(repo: Hosted, pull: PullRequest) -> dict[str, Any]:
    return {
        "num": pull.number,
        "title": pull.title,
        "author": {"name": pull.author},
        "createdAt": moment(pull.time),
        "status": pull.status,
        "repo": {"name": repo.id, "type": "model"},
        "isPullRequest": True,
    }


def _changes(repo: Hosted, base: str, revision: str) -> dict[str, str | None]:
    """The blob ids of the paths that differ from `base`; None for a path that was deleted."""
    before, after = repo.git.files(base), repo.git.files(repo.resolve(revision))
    paths = [*before, *(path for path in after if path not in before)]
    return {path: after.get(path) for path in paths if before.get(path) != after.get(path)}


def _conflicts(repo: Hosted, pull: PullRequest) -> list[str]:
    theirs, ours = (_changes(repo, pull.base, ref) for ref in (pull.ref, "main"))
    return [path for path, oid in theirs.items() if path in ours and ours[path] != oid]
