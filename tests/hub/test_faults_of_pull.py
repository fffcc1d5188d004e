"""`loratools pull` under every fault: the right bytes or none, nothing left, and it heals."""

import gzip
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loratools.hub import reading
from tests.e2e.commands import run_here
from tests.hub.faulty import (
    BLOB,
    CONFIG,
    FILES,
    REPO,
    WEIGHTS,
    Arrange,
    Row,
    Under,
    both,
    each_of,
    everything,
    goes_offline,
    has_token,
    home,
    is_nowhere,
    line_of,
    sends_to,
    strikes,
    unfinished,
)
from tests.hub.server import Hub, faults

STEPS = [(f"/api/models/{REPO}$", "GET"), ("/tree/", "GET"), ("resolve", "HEAD"), (BLOB, "GET")]
BUSY = "busy or broken"


def linked(etag: str) -> Arrange:
    return strikes(faults.Headers({"X-Linked-Etag": etag}), WEIGHTS, "HEAD", times=None)


def commit_is(commit: str | None) -> Arrange:
    return strikes(faults.Headers({"X-Repo-Commit": commit}), "resolve", "HEAD", times=None)


def tree(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Arrange:
    """Another listing: `change` takes the item of the weights, and returns one in its place."""

    def changed(body: bytes) -> bytes:
        return json.dumps(
            [change(item) if item["path"] == WEIGHTS else item for item in json.loads(body)]
        ).encode()

    return strikes(faults.Body(changed), "/tree/", times=None)


def answers(path: str, body: bytes) -> Arrange:
    return strikes(faults.Body(lambda _: body), path, times=None)


def listed(**fields: object) -> Arrange:
    """The weights are listed with other fields."""
    return tree(lambda item: item | fields)


def renamed(path: str) -> Arrange:
    return listed(path=path)


def waits_briefly(under: Under) -> None:
    under.patch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)


def disk_holds(size: int) -> Arrange:
    """No file may grow beyond this, as on a full disk."""

    def limit(under: Under) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    return limit


def adds(*paths: str) -> Arrange:
    """More entries, each with the bytes of the weights."""

    def changed(body: bytes) -> bytes:
        items = json.loads(body)
        item = next(item for item in items if item["path"] == WEIGHTS)
        return json.dumps([*items, *(item | {"path": path} for path in paths)]).encode()

    return strikes(faults.Body(changed), "/tree/", times=None)


def bomb(path: str, method: str = "GET", times: int | None = None) -> Arrange:
    """A mebibyte that becomes a gibibyte, whatever was asked for."""
    packed = gzip.compress(bytes(2**20))
    return both(
        strikes(faults.Headers({"Content-Encoding": "gzip"}), path, method, times=times),
        strikes(faults.Body(lambda _: packed), path, method, times=times),
    )


def pages_on(under: Under) -> None:
    """Each page links to another one."""
    under.patch.setattr(reading, "MOST_PAGES", 20)
    link = f'<{under.hub.endpoint}/api/models/{REPO}/tree/main>; rel="next"'
    under.hub.fail(faults.Headers({"Link": link}), "/tree/", times=None)
    under.hub.fail(faults.Body(lambda _: b"[]"), "/tree/", times=None)


DEEP = b"[" * 100_000 + b"]" * 100_000
LONG = "sends more than"
NAMES = {
    "a bidirectional mark": ("\u202egnp.x", "not a plain relative path"),
    "a line feed": ("a\nb", "not a plain relative path"),
    "an escape": ("\x1b[2Ja", "not a plain relative path"),
    "a control character of C1": ("a\x9bb", "not a plain relative path"),
    "half a character": ("a\ud800", "half a surrogate pair"),
    "an empty name": ("", "not a plain relative path"),
    "a name of 300 characters": ("x" * 300, "too long"),
}
TYPES: dict[str, dict[str, object]] = {
    "a number for a path": {"path": 5},
    "nothing for a path": {"path": None},
    "a number for a hash": {"lfs": None, "oid": 5},
    "a list for a large file": {"lfs": []},
    "a number for a type": {"type": 5},
}
SIZES = {"negative": -1, "a text": "5", "a fraction": 5.5, "true": True, "huge": 10**30}

ROWS = [
    Row("429 with Retry-After, once", each_of(STEPS, faults.Status(429, {"Retry-After": "7"}))),
    Row("503, once", each_of(STEPS, faults.Status(503))),
    Row("500, once", each_of(STEPS, faults.Status(500))),
    Row("429, always", strikes(faults.Status(429), times=None), 4, BUSY),
    Row("503, always", strikes(faults.Status(503), times=None), 4, BUSY),
    Row("500, always", strikes(faults.Status(500), times=None), 4, BUSY),
    Row(
        "503 of the headers only", strikes(faults.Status(503), WEIGHTS, "HEAD", times=None), 4, BUSY
    ),
    Row("503 of the content only", strikes(faults.Status(503), BLOB, times=None), 4, BUSY),
    Row("connection reset before the answer, once", each_of(STEPS, faults.Reset())),
    Row("connection reset, always", strikes(faults.Reset(), times=None), 4, "cannot be reached"),
    Row("connection reset at HEAD, once", strikes(faults.Reset(), WEIGHTS, "HEAD")),
    Row("connection reset in the body, once", strikes(faults.Reset(50_000), BLOB)),
    Row("body cut off, once", strikes(faults.Cut(50_000), BLOB)),
    Row("body cut off, always", strikes(faults.Cut(50_000), BLOB, times=None), 4, "reached"),
    Row("stalled body", both(waits_briefly, strikes(faults.Stall(1000, seconds=30), BLOB))),
    Row("slow body", strikes(faults.Slow(1_000_000), BLOB)),
    Row("one flipped bit, once", strikes(faults.Flip(100_000), BLOB), ends="fetched again"),
    Row(
        "one flipped bit, always",
        strikes(faults.Flip(100_000), BLOB, times=None),
        1,
        "is not what the Hub lists",
        "what came is deleted",
    ),
    Row(
        "one flipped bit of a small file, always",
        strikes(faults.Flip(3), CONFIG, "GET", times=None),
        1,
        "is not what the Hub lists",
        "what came is deleted",
    ),
    Row("Content-Length too small, once", strikes(faults.Length(1000), BLOB)),
    Row("Content-Length too small", strikes(faults.Length(1000), BLOB, times=None), 4, "whole"),
    Row("Content-Length too large, once", strikes(faults.Length(10**6), BLOB)),
    Row(
        "X-Linked-Size of another file",
        strikes(faults.Headers({"X-Linked-Size": "5"}), WEIGHTS, "HEAD", times=None),
        4,
        "whole",
    ),
    Row(
        "short body, and no X-Linked-Size",
        both(
            strikes(faults.Headers({"X-Linked-Size": None}), WEIGHTS, "HEAD", times=None),
            strikes(faults.Length(1000), BLOB, times=None),
        ),
        1,
        "is not what the Hub lists",
        "what came is deleted",
    ),
    Row("ETag of another content", linked(f'"{"0" * 64}"'), 1, "another content"),
    Row("ETag that is a path", linked('"../../../outside"'), 1, "another content"),
    Row(
        "ETag of a redirect that is a path",
        strikes(
            faults.Headers({"X-Linked-Etag": None, "ETag": '"../../../outside"'}),
            WEIGHTS,
            "HEAD",
            times=None,
        ),
        4,
        "ETag",
    ),
    Row("no X-Repo-Commit", commit_is(None), 4, "does not answer as one"),
    Row("X-Repo-Commit of another commit", commit_is("1" * 40), 1, "another commit"),
    Row("X-Repo-Commit that is a path", commit_is("../../../../outside"), 1, "another commit"),
    Row("listing with `..`", renamed(f"../{WEIGHTS}"), 1, "not a plain relative path"),
    Row("listing with an absolute path", renamed(f"/tmp/{WEIGHTS}"), 1, "not a plain relative"),
    Row("listing with a backslash", renamed(f"..\\{WEIGHTS}"), 1, "not a plain relative path"),
    Row(
        "listing with a malformed hash",
        tree(lambda item: item | {"lfs": item["lfs"] | {"oid": "../x"}}),
        1,
        "malformed hash",
    ),
    Row(
        "listing with the hash of another content",
        tree(lambda item: item | {"lfs": item["lfs"] | {"oid": "0" * 64}}),
        1,
        "another content",
    ),
    *(Row(f"listing with {what}", renamed(path), 1, says) for what, (path, says) in NAMES.items()),
    *(
        Row(f"listing with {what}", listed(**new), 1, "not the answer")
        for what, new in TYPES.items()
    ),
    *(
        Row(
            f"listing with a size that is {what}",
            listed(size=size),
            1,
            "size",
        )
        for what, size in SIZES.items()
    ),
    Row("listing without sizes", tree(lambda item: {"path": WEIGHTS}), 1, "is missing"),
    Row("listing of a file twice", adds(WEIGHTS), 1, f"lists {WEIGHTS} twice"),
    Row("listing of a file that is a folder", adds(f"{WEIGHTS}/x/y"), 1, "twice"),
    Row(
        "listing of names that differ in case",
        adds("LICENSE.a", "LICENSE.A"),
        1,
        "are one name on some disks",
    ),
    Row("listing that is an object", answers("/tree/", b'{"error": 1}'), 1, "not list"),
    Row("listing of texts", answers("/tree/", b'["x"]'), 1, "not object"),
    Row("listing nested 100,000 deep", answers("/tree/", DEEP), 1, "more than 100 deep"),
    Row("listing of half a character", answers("/tree/", b'["\\ud800"]'), 1, "half a surrogate"),
    Row("listing cut off", answers("/tree/", b'[{"type": "fi'), 1, "not valid JSON"),
    Row("listing without an end", strikes(faults.Endless(2**28), "/tree/", times=None), 1, LONG),
    Row("listing of pages without an end", pages_on, 1, "20 pages"),
    Row("commit that is a number", answers(f"{REPO}$", b'{"sha": 5}'), 1, "not the answer"),
    Row("commit nested 100,000 deep", answers(f"{REPO}$", DEEP), 1, "more than 100 deep"),
    Row("compressed bomb in place of the listing", bomb("/tree/"), 1, "compressed"),
    Row("compressed bomb in place of the commit", bomb(f"{REPO}$"), 1, "compressed"),
    Row("compressed bomb in place of a file", bomb(CONFIG), 1, "compressed"),
    Row("bytes without an end", strikes(faults.Endless(2**28), BLOB, times=None), 1, LONG),
    Row(
        "bytes of a small file without an end",
        strikes(faults.Endless(2**28), CONFIG, "GET", times=None),
        1,
        LONG,
    ),
    Row("429 that asks for years", strikes(faults.Status(429, {"Retry-After": "9" * 9}), BLOB)),
    Row("a page in place of the listing", answers("/tree/", b"<html>"), 4, "not the answer"),
    Row("a page in place of the commit", answers(f"{REPO}$", b"<html>"), 4, "not the answer"),
    Row(
        "revision that stands for no commit",
        answers(f"{REPO}$", b'{"id": "ann/plain", "sha": "main", "siblings": []}'),
        1,
        "which is no commit",
    ),
    Row(
        "gated", lambda under: setattr(under.hub.repos[REPO], "gated", "manual"), 1, "gated; accept"
    ),
    Row("private", lambda under: setattr(under.hub.repos[REPO], "private", True), 1, "private one"),
    Row("no such repository", sends_to("ann/none"), 1, "no such repository"),
    Row("no such revision", sends_to(f"{REPO}@v9"), 1, "no such revision"),
    Row("no such commit", sends_to(f"{REPO}@{'0' * 40}"), 1, "no such revision"),
    Row("no such file", sends_to(f"{REPO}/none.safetensors"), 1, "has no file or folder"),
    Row(
        "file gone while it is fetched",
        strikes(faults.Status(404, {"X-Error-Code": "EntryNotFound"}), WEIGHTS, times=None),
        1,
        "no such file",
    ),
    Row("token of nobody", has_token(None), 1, "the token is not valid"),
    Row("403 of the content", strikes(faults.Status(403), BLOB, times=None), 1, "no right to this"),
    Row(
        "403 of the headers",
        strikes(faults.Status(403), WEIGHTS, "HEAD", times=None),
        1,
        "no right",
    ),
    Row("nobody listens", is_nowhere, 4, "cannot be reached"),
    Row("offline, and not in the cache", goes_offline, 4, "offline, and not in the cache"),
    Row("disk full, in the cache", disk_holds(100_000), 4, "file too large"),
    Row("disk full, at the first note", disk_holds(10), 4, "file too large"),
]


@pytest.fixture(autouse=True)
def _room() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def under(hub: Hub, sleeps: list[float]) -> Iterator[Under]:
    hub.create_repo(REPO, FILES)
    with pytest.MonkeyPatch.context() as patch:
        yield Under(hub, patch)


def pulled(folder: Path) -> dict[str, bytes] | None:
    """The files of an output, which is whole or not there."""
    if not folder.exists():
        return None
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored() -> dict[Path, bytes]:
    """The files that the cache would give to somebody else."""
    return {
        path: path.read_bytes()
        for path in (home() / "hub").glob("models--*/snapshots/*/*")
        if path.is_file()
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fault)
def test_a_pull_gives_the_bytes_of_the_hub_or_none(
    row: Row, under: Under, sleeps: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, lock = tmp_path / "out", tmp_path / "loratools.lock"
    row.arrange(under)
    result = run_here(capsys, "pull", *under.repo, "-o", out, "--lock", lock)
    _room_again()
    assert all(rule.hits for rule in under.hub.rules), "the fault did not strike"
    assert result.code == row.code, result.err
    assert "Retry-After" not in row.fault or 7.0 in sleeps
    assert max(sleeps, default=0) <= 61
    assert pulled(out) == (FILES if row.code == 0 else None)
    if row.code:
        assert row.says in line_of(result)
        assert not lock.exists()
    for path, data in stored().items():
        assert data == FILES[path.name], path
    assert unfinished(tmp_path, home()) == []
    # Whatever a Hub says, it chooses no place: not beside the client's folder, nor in its top.
    assert everything(home().parent) <= {"huggingface", *_inside(home())}
    assert not [path for path in everything(home().parent) if "outside" in path]

    under.heal()
    again = run_here(capsys, "pull", REPO, "-o", out, "--lock", lock, "--overwrite")
    assert (again.code, again.err) == (0, "")
    assert pulled(out) == FILES


def _room_again() -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def _inside(folder: Path) -> set[str]:
    return {f"{folder.name}/{path}" for path in everything(folder)}
