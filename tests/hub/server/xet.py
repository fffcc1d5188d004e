"""Xet, where a test has it, as far as an upload goes: it takes all that comes, and keeps nothing.

hf_xet sends the chunks of files in packages, and then a list of the chunks that make each file. A
test puts the content of a file into the store by itself. A download asks for that list, and a test
can only have it wait: there is none.
"""

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.hub.server.answers import RefusedError
from tests.hub.server.state import Hub


async def token(hub: Hub, request: Request) -> Response:
    """Answer where to send the chunks, on the Hub."""
    if not hub.settings.xet:
        raise RefusedError(404, "there is no Xet here")
    hub.writable(request)
    expires = int(time.time()) + 3600
    return JSONResponse({"casUrl": hub.storage_endpoint, "exp": expires, "accessToken": "xet"})


async def reading_token(hub: Hub, request: Request) -> Response:
    """Answer where to fetch the chunks, on the Hub."""
    hub.readable(request)
    return Response(
        headers={
            "X-Xet-Cas-Url": hub.storage_endpoint,
            "X-Xet-Access-Token": "xet",
            "X-Xet-Token-Expiration": str(int(time.time()) + 3600),
        }
    )


async def package(hub: Hub, request: Request) -> Response:
    async for _ in request.stream():
        pass
    return JSONResponse({"was_inserted": True})


async def chunks(hub: Hub, request: Request) -> Response:
    await request.body()
    return JSONResponse({"result": 1})
