"""The handlers for writing: the check which files are large, and commits."""

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.hub.server import cards, pulls
from tests.hub.server.accounts import Caller
from tests.hub.server.answers import RefusedError, no_entry, no_revision
from tests.hub.server.hosted import Hosted
from tests.hub.server.lfs import Pointer, is_large, matches
from tests.hub.server.repository import StaleParentError
from tests.hub.server.state import Hub

UNFIT_PATH = re.compile(r"^/|/$|//|(^|/)(\.|\.\.|\.git)(/|$)|\x00|^$", re.IGNORECASE)


async def preupload(hub: Hub, request: Request) -> Response:
    asked = await request.json()
    repo, _ = _changeable(hub, request)
    commit = repo.resolve(unquote(request.path_params["revision"]))
    files, attributes = repo.files(commit), repo.attributes(commit)
    ignored = asked.get("gitIgnore")
    if ignored is None:
        ignored = repo.content(files[".gitignore"]).decode() if ".gitignore" in files else ""
    return JSONResponse(
        {
            "commitOid": commit,
            "files": [
                {
                    "path": (path := file["path"]),
                    "uploadMode": "lfs" if is_large(path, file["size"], attributes) else "regular",
                    "shouldIgnore": matches(path, ignored.split()),
                    "oid": files[path].etag if path in files else None,
                }
                for file in asked["files"]
            ],
        }
    )


@dataclass(frozen=True)
class Change:
    """The parsed body of a commit request."""

    header: dict[str, Any]
    operations: list[tuple[str, dict[str, Any]]]

    @classmethod
    def parse(cls, body: bytes) -> "Change":
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        if not lines or lines[0]["key"] != "header" or not lines[0]["value"].get("summary"):
            raise RefusedError(400, "the first line must be a header with a summary")
        return cls(lines[0]["value"], [(line["key"], line["value"]) for line in lines[1:]])

    @property
    def message(self) -> str:
        summary, description = self.header["summary"], self.header.get("description", "")
        return f"{summary}\n\n{description}".rstrip()


async def commit(hub: Hub, request: Request) -> Response:
    body = await request.body()  # before the tip is read, else two commits interleave
    repo, caller = _changeable(hub, request)
    change, revision = Change.parse(body), unquote(request.path_params["revision"])
    told: dict[str, Any] = {"success": True, "hookOutput": ""}
    with repo.git.lock:
        if request.query_params.get("create_pr"):
            base = repo.resolve(change.header.get("parentCommit") or revision)
            files = changed(repo, base, change.operations)
            title, text = change.header["summary"], change.header.get("description", "")
            pull = pulls.opened(hub, repo, caller, base=base, title=title, description=text)
            pull.status, ref = "open", pull.ref
            told["pullRequestUrl"] = f"{hub.endpoint}/{repo.id}/discussions/{pull.number}"
        else:
            ref, base = _branch(repo, revision), repo.resolve(revision)
            if not base.startswith(change.header.get("parentCommit") or base):
                raise _stale()
            files = changed(repo, base, change.operations)
        oid = committed(hub, repo, caller, ref=ref, base=base, files=files, message=change.message)
    told |= {"commitOid": oid, "commitUrl": f"{hub.endpoint}/{repo.id}/commit/{oid}"}
    return JSONResponse(told)


def committed(
    hub: Hub,
    repo: Hosted,
    caller: Caller,
    *,
    ref: str,
    base: str,
    files: dict[str, str],
    message: str,
) -> str:
    try:
        return repo.git.commit(
            ref, files, expected=base, author=caller.name, message=message, time=hub.tick()
        )
    except StaleParentError as error:
        raise _stale() from error


def changed(
    repo: Hosted, base: str, operations: Iterable[tuple[str, dict[str, Any]]]
) -> dict[str, str]:
    """The files of the commit `base` after these operations, as blob ids by path."""
    files = repo.git.files(base)
    for kind, value in operations:
        path = value["path"].removesuffix("/") if kind == "deletedFolder" else value["path"]
        if UNFIT_PATH.search(path):
            raise RefusedError(400, f"Invalid path in repo: {path}")
        if kind == "file":
            files[path] = repo.git.objects.write("blob", _content(path, value))
        elif kind == "lfsFile":
            files[path] = repo.git.objects.write("blob", _pointer(repo, value))
        elif kind == "deletedFile":
            if files.pop(path, None) is None:
                raise _not_there(path, base)
        elif kind == "deletedFolder":
            inside = [name for name in files if name.startswith(path + "/")]
            if not inside:
                raise _not_there(path, base)
            for name in inside:
                del files[name]
        else:
            raise RefusedError(400, f"unknown operation: {kind}")
    _refuse_files_that_are_folders(files)
    return files


def _changeable(hub: Hub, request: Request) -> tuple[Hosted, Caller]:
    """The repository and the caller, if the caller may change the revision of the request.

    The author of a pull request may change its revision without rights to the repository.
    """
    repo, caller = hub.proposable(request)
    revision = unquote(request.path_params["revision"])
    theirs = [pull.ref for pull in repo.pulls if pull.author == caller.name]
    if request.query_params.get("create_pr") or revision in theirs:
        return repo, caller
    return hub.writable(request)


def _content(path: str, value: dict[str, Any]) -> bytes:
    text = value["content"]
    data = base64.b64decode(text) if value.get("encoding") == "base64" else text.encode()
    errors, _ = cards.problems(data.decode()) if path == "README.md" else ([], [])
    if errors:
        raise RefusedError(400, f"Invalid metadata in README.md: {errors[0]}")
    return data


def _pointer(repo: Hosted, value: dict[str, Any]) -> bytes:
    """The pointer to a large file that was uploaded; a copy of one is requested without a size."""
    size = repo.store.size(value["oid"])
    if size is None or value.get("size", size) != size:
        raise RefusedError(
            400,
            "Your push was rejected because an LFS pointer pointed to a file that does not exist: "
            f"{value['path']}",
        )
    return bytes(Pointer(value["oid"], size))


def _branch(repo: Hosted, revision: str) -> str:
    """The ref that a commit to a revision moves."""
    for ref in (f"refs/heads/{revision}", revision):
        if repo.git.target(ref) is not None and not ref.startswith("refs/tags/"):
            return ref
    raise no_revision(revision)


def _refuse_files_that_are_folders(files: dict[str, str]) -> None:
    for path in files:
        parts = path.split("/")
        for length in range(1, len(parts)):
            if "/".join(parts[:length]) in files:
                raise RefusedError(400, f"{path}: a file is where its folder would be")


def _stale() -> RefusedError:
    return RefusedError(412, "A commit has happened since. Please refresh and try again.")


def _not_there(path: str, commit: str) -> RefusedError:
    refusal = no_entry(path, commit)
    refusal.body = {"error": f'A file with this name doesn\'t exist: "{path}"'}
    return refusal
