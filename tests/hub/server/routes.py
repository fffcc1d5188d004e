"""The routes of the Hub and its storage. Paths are matched quoted: `refs%2Fpr%2F1` is a segment."""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.hub.server import commits, downloads, listings, pulls, repos, storage, xet
from tests.hub.server.answers import RefusedError
from tests.hub.server.state import Hub

Handler = Callable[[Hub, Request], Awaitable[Response]]

API = "/api/models/{namespace}/{name}"
FILES = "/{namespace}/{name}"
HUB: list[tuple[str, str, Handler]] = [
    ("GET", "/api/whoami-v2", repos.whoami),
    ("POST", "/api/repos/create", repos.create),
    ("DELETE", "/api/repos/delete", repos.delete),
    ("POST", "/api/validate-yaml", repos.validate_yaml),
    ("PUT", API + "/settings", repos.settings),
    ("GET", API, listings.model_info),
    ("GET", API + "/revision/{revision}", listings.model_info),
    ("GET", API + "/tree/{revision}", listings.tree),
    ("GET", API + "/tree/{revision}/{path:path}", listings.tree),
    ("POST", API + "/paths-info/{revision}", listings.paths_info),
    ("GET", API + "/refs", listings.refs),
    ("GET", API + "/commits/{revision}", listings.commits),
    ("POST", API + "/preupload/{revision}", commits.preupload),
    ("GET", API + "/xet-write-token/{revision}", xet.token),
    ("GET", API + "/xet-read-token/{revision}", xet.reading_token),
    ("POST", API + "/commit/{revision}", commits.commit),
    ("POST", API + "/branch/{branch}", pulls.create_branch),
    ("DELETE", API + "/branch/{branch}", pulls.delete_branch),
    ("POST", API + "/tag/{revision}", pulls.create_tag),
    ("DELETE", API + "/tag/{revision}", pulls.delete_tag),
    ("GET", API + "/discussions", pulls.discussions),
    ("POST", API + "/discussions", pulls.open_discussion),
    ("GET", API + "/discussions/{number:int}", pulls.discussion),
    ("POST", API + "/discussions/{number:int}/status", pulls.change_status),
    ("POST", API + "/discussions/{number:int}/merge", pulls.merge),
    ("POST", "/api/complete" + FILES + "/{sha256}", storage.complete),
    (
        "GET",
        "/api/resolve-cache/models" + FILES + "/{revision}/{path:path}",
        downloads.resolve_cache,
    ),
    ("POST", FILES + ".git/info/lfs/objects/batch", storage.batch),
    ("POST", FILES + ".git/info/lfs/objects/verify", storage.verify),
    ("GET", FILES + "/resolve/{revision}/{path:path}", downloads.resolve),
]
STORAGE: list[tuple[str, str, Handler]] = [
    ("POST", "/v1/xorbs/default/{hash}", xet.package),
    ("POST", "/v1/shards", xet.chunks),
    ("GET", FILES + "/{sha256}", storage.get),
    ("PUT", FILES + "/{sha256}", storage.put),
    ("PUT", FILES + "/{sha256}/{number:int}", storage.put_part),
]


def application(table: list[tuple[str, str, Handler]]) -> Starlette:
    """The application with the routes of one origin; a route for GET answers HEAD as well."""
    app = Starlette(routes=[Route(path, _bound(to), methods=[verb]) for verb, path, to in table])
    app.router.redirect_slashes = False
    app.router.default = _nothing_here
    return app


def _bound(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request.scope["hub"], request)
        except RefusedError as refusal:
            return refusal.response()

    return answer


async def _nothing_here(scope: object, receive: object, send: object) -> None:
    """Answer a request for anything that this Hub does not have, such as Xet."""
    answer = JSONResponse({"error": "Sorry, we can't find the page you are looking for."}, 404)
    await answer(scope, receive, send)  # type: ignore[arg-type]
