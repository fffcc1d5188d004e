"""The answers to downloads: a whole file, or the part of it that a Range header asks for."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

PIECE = 256 * 1024
ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def content(request: Request, source: bytes | Path, headers: dict[str, str]) -> Response:
    """The answer to a GET or HEAD: 200, 206, or 416 for a range that begins after the end."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
    status, start, stop = 200, 0, size
    if (asked := wanted(request.headers.get("range"), size)) is not None:
        start, stop = asked
        if start >= stop:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
        status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_pieces(source, start, stop), status, headers)


def wanted(header: str | None, size: int) -> tuple[int, int] | None:
    """The start and end of the bytes that a Range header asks for; None if it asks for all.

    The start is not before the end if the range has no bytes.
    """
    match = None if header is None else ONE_RANGE.fullmatch(header)
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    return int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)


async def _pieces(source: bytes | Path, start: int, stop: int) -> AsyncIterator[bytes]:
    for position in range(start, stop, PIECE):
        yield _piece(source, position, min(stop, position + PIECE))


def _piece(source: bytes | Path, start: int, stop: int) -> bytes:
    """Read some bytes. A file is not kept open, because a client may never ask for the rest."""
    if isinstance(source, bytes):
        return source[start:stop]
    with source.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)
