"""The token goes to the Hub and to nobody else, and text that is no token is never sent."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import constants

from loratools.hub import reading, session
from tests.e2e.commands import run_apart, run_here
from tests.hub.client import write
from tests.hub.faulty import CONFIG, FILES, REPO, WEIGHTS, line_of
from tests.hub.server import Hub, faults
from tests.hub.test_secrets import CANARY

API = f"/api/models/{REPO}"


@pytest.fixture
def ours(hub: Hub, sleeps: list[float], monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub that knows our token; its storage, on another port, is somebody else's server here."""
    hub.create_repo(REPO, FILES)
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    return hub


def elsewhere(hub: Hub) -> list[str]:
    """Addresses that are not the Hub's: another port, another host, with a user before it."""
    host = hub.storage_endpoint.removeprefix("http://")
    by_name = hub.endpoint.replace("127.0.0.1", "localhost")
    return [hub.storage_endpoint, f"//{host}", f"http://ann:word@{host}", by_name]


def assert_kept(hub: Hub) -> None:
    """No other server was given the token, or a cookie that the Hub has set."""
    own = hub.endpoint.removeprefix("http://")
    others = [r for r in hub.log if r.origin == "storage" or r.headers["host"] != own]
    assert others, "nobody else was asked"
    token = os.environ["HF_TOKEN"]
    assert [r for r in others if "cookie" in r.headers or token in str(r.headers)] == []
    assert [r for r in others if r.headers.get("authorization", "").startswith("Bearer")] == []


@pytest.mark.parametrize("which", range(4), ids=["port", "no scheme", "user", "host"])
@pytest.mark.parametrize(
    ("path", "method"),
    [("/tree/", "GET"), (f"{API}$", "GET"), ("resolve", "HEAD"), ("resolve", "GET")],
    ids=["listing", "commit", "headers", "file"],
)
def test_a_redirect_does_not_take_the_token_along(
    which: int,
    path: str,
    method: str,
    ours: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = elsewhere(ours)[which]
    moved = faults.Status(307, {"Location": f"{target}/x", "Set-Cookie": "session=secret"})
    ours.fail(moved, path, method=method, origin="hub", times=None)
    result = run_here(capsys, "pull", REPO, "-o", tmp_path / "out")
    if method != "HEAD":  # whose redirects to others nobody follows
        assert_kept(ours)
    assert result.code != 0
    line_of(result)


@pytest.mark.parametrize("which", range(4), ids=["port", "no scheme", "user", "host"])
def test_the_next_page_of_a_listing_does_not_get_the_token(
    which: int, ours: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    link = f'<{elsewhere(ours)[which]}/next>; rel="next"'
    ours.fail(faults.Headers({"Link": link, "Set-Cookie": "session=secret"}), "/tree/", times=None)
    result = run_here(capsys, "pull", REPO)
    assert result.code != 0
    line_of(result)
    assert_kept(ours)


def lfs_actions(hub: Hub, change: Callable[[dict[str, dict[str, Any]]], None]) -> None:
    def changed(body: bytes) -> bytes:
        answer = json.loads(body)
        for item in answer["objects"]:
            change(item.get("actions", {}))
        return json.dumps(answer).encode()

    hub.fail(faults.Body(changed), "objects/batch", times=None)


@pytest.mark.parametrize("action", ["verify", "upload"])
@pytest.mark.parametrize("parts", [None, 50_000], ids=["whole", "in parts"])
def test_an_upload_does_not_take_the_token_along(
    action: str, parts: int | None, ours: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its addresses, and the headers for them, come from the Hub."""
    ours.settings.part_size = parts

    def change(actions: dict[str, dict[str, Any]]) -> None:
        if "upload" in actions:
            actions.setdefault(action, {})["href"] = f"{ours.storage_endpoint}/other"

    lfs_actions(ours, change)
    files = FILES | {WEIGHTS: FILES[WEIGHTS][:-1] + b"\x01", "other.safetensors": FILES[WEIGHTS]}
    adapter = write(tmp_path / "adapter", files)
    result = run_here(capsys, "push", adapter, REPO, "--no-card", "--all")
    assert result.code != 0
    line_of(result)
    assert ours.log.of(path="^/other$", origin="storage")
    assert_kept(ours)


def test_a_commit_that_is_redirected_does_not_take_the_token_along(
    ours: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = faults.Status(307, {"Location": f"{ours.storage_endpoint}/x"})
    ours.fail(moved, "/commit/", times=None)
    adapter = write(tmp_path / "adapter", FILES | {CONFIG: FILES[CONFIG] + b"\n"})
    assert run_here(capsys, "push", adapter, REPO, "--no-card").code != 0
    assert ours.log.of(path="^/x$", origin="storage")
    assert_kept(ours)


@pytest.mark.parametrize("header", ["Link", "X-Xet-Refresh-Route"])
def test_xet_of_another_host_is_not_used(
    header: str,
    ours: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """hf_xet is no part of the guarded session, and takes the token wherever it is told to."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    route = f"{ours.storage_endpoint}/xet"
    said = f'<{route}>; rel="xet-auth"' if header == "Link" else route
    ours.fail(faults.Headers({"X-Xet-Hash": "0" * 64, header: said}), WEIGHTS, times=None)
    result = run_here(capsys, "pull", REPO, "-o", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert not ours.log.of(path="xet")
    assert_kept(ours)


@pytest.mark.parametrize(
    ("endpoint", "address", "is_there"),
    [
        ("https://hub.co", "https://hub.co/x", True),
        ("https://hub.co", "https://HUB.co:443/x", True),
        ("https://hub.co/mirror", "https://ann:word@hub.co/x", True),
        ("http://ann:word@hub.co", "http://hub.co:80/x", True),
        ("https://hub.co", "http://hub.co/x", False),
        ("http://hub.co", "https://hub.co/x", False),
        ("https://hub.co", "https://hub.co:444/x", False),
        ("https://hub.co", "https://cdn.hub.co/x", False),
        ("https://hub.co", "https://hub.co.evil/x", False),
        ("https://hub.co", "https://hub.co@evil/x", False),
        ("https://mirror.co", "https://huggingface.co/x", False),
    ],
)
def test_the_hub_is_where_scheme_host_and_port_are(
    endpoint: str, address: str, is_there: bool, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    headers = {"User-Agent": "loratools/1; hf_hub/2", "Authorization": "Bearer x", "Cookie": "x=y"}
    request = httpx2.Request("GET", address, headers=headers)
    session._outgoing(request)
    assert ("Authorization" in request.headers, "Cookie" in request.headers) == (is_there, is_there)


def test_every_request_with_the_token_is_guarded(
    ours: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What does not say that it is ours would pass the guard."""
    adapter = write(tmp_path / "adapter", FILES | {WEIGHTS: FILES[WEIGHTS][:-1] + b"\x01"})
    for command in (
        ("pull", REPO, "-o", tmp_path / "out"),
        ("inspect", f"hf://{REPO}"),
        ("push", adapter, REPO, "--tag", "v1"),
        ("push", adapter, "ann/new", "--create", "--private", "--branch", "x"),
        ("push", write(adapter, {"README.md": b"# Hm\n"}), REPO, "--pr"),
    ):
        result = run_here(capsys, *command)
        assert (result.code, result.err) == (0, ""), command
    assert len(ours.log.of("POST")) > 5
    agents = {r.headers["user-agent"] for r in ours.log if "authorization" in r.headers}
    assert {agent.partition("/")[0] for agent in agents} == {"loratools"}


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_uploads_to_a_storage_are_guarded_though_they_name_no_client(
    method: str, ours: Hub
) -> None:
    headers = {"User-Agent": "python-httpx2/2", "Authorization": "Bearer x", "Cookie": "x=y"}
    request = httpx2.Request(method, f"{ours.storage_endpoint}/x", headers=headers)
    session._outgoing(request)
    assert not request.headers.keys() & {"authorization", "cookie"}
    endless = httpx2.Response(200, request=request, stream=httpx2.ByteStream(b"x"))
    session._incoming(endless)
    assert isinstance(endless.stream, session._Limited)


def test_requests_of_others_are_left_alone(ours: Hub) -> None:
    """The client's session is one for the whole process."""
    assert reading.exists(REPO)
    headers = {"User-Agent": "other/1; hf_hub/2", "Authorization": "Bearer theirs"}
    request = httpx2.Request("GET", "https://their.hub/x", headers=headers)
    before = dict(request.headers)
    session._outgoing(request)
    assert dict(request.headers) == before


# --- what is no token --------------------------------------------------------------------------

NO_TOKENS = {
    "not UTF-8": b"\xff\xfe",
    "a letter that no header has": "hf_tök".encode(),
    "a byte order mark": b"\xef\xbb\xbf" + CANARY.encode(),
    "a space inside": CANARY[:9].encode() + b" x",
    "a tab inside": CANARY[:9].encode() + b"\tx",
    "an escape": CANARY[:9].encode() + b"\x1b[2Jx",
    "a NUL": CANARY[:9].encode() + b"\0x",
    "a right-to-left mark": CANARY[:9].encode() + "\u202ex".encode(),
    "a DEL": CANARY[:9].encode() + b"\x7fx",
}


@pytest.fixture
def signed_out(hub: Hub, sleeps: list[float], monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A public repository, and the place of the token's file, without one."""
    hub.create_repo(REPO, FILES)
    monkeypatch.delenv("HF_TOKEN")
    Path(constants.HF_TOKEN_PATH).parent.mkdir(parents=True)
    hub.log.clear()
    return hub


@pytest.mark.parametrize("debug", ["0", "1"])
@pytest.mark.parametrize("text", NO_TOKENS.values(), ids=list(NO_TOKENS))
def test_a_file_without_a_token_is_named_and_nothing_sent(
    text: bytes,
    debug: str,
    signed_out: Hub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LORATOOLS_DEBUG", debug)
    file = Path(constants.HF_TOKEN_PATH)
    file.write_bytes(text)
    result = run_here(capsys, "pull", REPO)
    assert result.code == 1
    assert f"{file}: not a token" in result.err
    assert debug == "1" or line_of(result)
    assert CANARY[:9] not in result.err
    assert not signed_out.log


@pytest.mark.parametrize("what", sorted(NO_TOKENS.keys() - {"a NUL"}))  # which no variable has
def test_a_variable_without_a_token_is_named_and_nothing_sent(
    what: str, signed_out: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", os.fsdecode(NO_TOKENS[what]))
    result = run_here(capsys, "pull", REPO)
    assert result.code == 1
    assert "HF_TOKEN: not a token" in line_of(result)
    assert CANARY[:9] not in result.err
    assert not signed_out.log


@pytest.mark.parametrize("name", ["token", "stored_tokens"])
def test_a_token_file_that_would_be_waited_for_is_refused(
    name: str, signed_out: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(constants.HF_TOKEN_PATH).write_text("hf_x\n")
    place = Path(constants.HF_TOKEN_PATH).with_name(name)
    place.unlink(missing_ok=True)
    place.mkdir()
    assert run_here(capsys, "pull", REPO).code == 1
    place.rmdir()
    place.write_bytes(b"x" * (2**20 + 1))
    result = run_here(capsys, "pull", REPO)
    assert result.code == 1
    assert "at most 1048576 are read" in line_of(result)
    place.unlink()
    os.mkfifo(place)  # last: whoever opens it never comes back
    result = run_here(capsys, "pull", REPO)
    assert result.code == 1
    assert f"{place}: not a regular file" in line_of(result)
    assert not signed_out.log


def test_a_token_file_that_may_not_be_read_is_named(
    signed_out: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(constants.HF_TOKEN_PATH)
    file.write_text(CANARY)
    opened = os.open

    def refuses(path: Path, *arguments: int, **options: Any) -> int:
        if Path(os.fsdecode(path)) == file:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuses)
    result = run_here(capsys, "pull", REPO)
    assert result.code == 4
    assert f"{file}: permission denied" in line_of(result)


def test_a_token_file_that_the_client_cannot_read_is_named(
    signed_out: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change between our look and the client's."""
    file = Path(constants.HF_TOKEN_PATH)
    read_text = Path.read_text

    def refuses(self: Path, *arguments: Any, **options: Any) -> str:
        if self == file:
            raise PermissionError(13, "Permission denied", str(self))
        return read_text(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refuses)
    result = run_here(capsys, "pull", REPO)
    assert result.code == 4
    assert f"{file}: permission denied" in line_of(result)


@pytest.mark.parametrize("text", ["", "\n", " \r\n "])
def test_an_empty_token_file_is_none(
    text: str, signed_out: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(constants.HF_TOKEN_PATH).write_text(text)
    assert run_here(capsys, "pull", REPO).code == 0


def test_a_token_in_the_environment_goes_before_a_broken_file(
    signed_out: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(constants.HF_TOKEN_PATH).write_bytes(b"\xff")
    monkeypatch.setenv("HF_TOKEN", signed_out.user("ann") + "\r\n")
    assert run_here(capsys, "pull", REPO).code == 0


def test_a_broken_file_of_stored_tokens_is_not_quoted(signed_out: Hub, tmp_path: Path) -> None:
    """The client's own log would print the line that it cannot read."""
    environment = signed_out.environment(tmp_path / "home")
    folder = Path(environment["HF_HOME"])
    write(folder, {"token": signed_out.user("ann").encode(), "stored_tokens": CANARY.encode()})
    result = run_apart("pull", REPO, env=environment)
    assert (result.code, result.err) == (0, "")
