"""The token is nowhere: not in what is printed, not in a traceback, not in a file."""

import base64
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import constants
from starlette.types import ASGIApp, Receive, Scope, Send

from loratools.hub import token
from tests.e2e.commands import SINGLE, run_apart, run_here
from tests.hub.client import write
from tests.hub.faulty import (
    BLOB,
    FILES,
    REPO,
    WEIGHTS,
    Arrange,
    Under,
    goes_offline,
    home,
    is_nowhere,
    strikes,
)
from tests.hub.server import Hub, faults
from tests.hub.server.accounts import Caller
from tests.hub.server.connection import Connection
from tests.hub.server.fault import Fault

BASE = "ann/base"
CANARY = "hf_CanaryCanaryCanaryCanaryCanaryCana"
USER, PASSWORD = "ann", "sesame/open:now@once"
#: As it stands in an address, and as it goes over the wire.
QUOTED = "sesame%2Fopen%3Anow%40once"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@dataclass(frozen=True)
class Echo(Fault):
    """A Hub that says what it was sent, in a header, in an error or in a page."""

    status: int

    def wrap(self, app: ASGIApp, connection: Connection) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            given = dict(scope["headers"]).get(b"authorization", b"none")
            said = b"I know you: " + given
            body = json.dumps({"error": f"{said.decode()} {'x' * 300} {given.decode()}"}).encode()
            if self.status == 200:
                body = said
            headers = [(b"x-error-message", said), (b"x-hf-warning", said), (b"location", b"/x")]
            headers.append((b"content-length", str(len(body)).encode()))
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        return answer


def gate(under: Under) -> None:
    under.hub.repos[REPO].gated = "manual"
    under.patch.setitem(under.hub.accounts.by_token, CANARY, Caller("bob", "write", ()))


def forget_token(under: Under) -> None:
    under.patch.delitem(under.hub.accounts.by_token, CANARY)


SCENES: dict[str, Arrange] = {
    "nothing wrong": lambda under: None,
    **{
        f"echo with {status}": strikes(Echo(status), times=None)
        for status in (200, 400, 401, 403, 404, 409, 429, 500)
    },
    "echo at the files": strikes(Echo(400), "resolve|preupload", times=None),
    "echo at the storage": strikes(Echo(403), BLOB, times=None),
    "echo at the commit": strikes(Echo(400), "/commit/", times=None),
    "echo in the check of the card": strikes(Echo(400), "validate-yaml", times=None),
    "reset": strikes(faults.Reset(), times=None),
    "flipped": strikes(faults.Flip(1000), BLOB, times=None),
    "commit that is the token": strikes(
        faults.Body(lambda _: json.dumps({"id": REPO, "sha": CANARY, "siblings": []}).encode()),
        f"{REPO}($|/revision)",
        times=None,
    ),
    "ETag that is the token": strikes(
        faults.Headers({"X-Linked-Etag": f'"{CANARY}"'}), WEIGHTS, "HEAD", times=None
    ),
    "gated": gate,
    "token of nobody": forget_token,
    "nobody listens": is_nowhere,
    "offline": goes_offline,
}


@pytest.fixture
def under(hub: Hub, sleeps: list[float], monkeypatch: pytest.MonkeyPatch) -> Under:
    hub.create_repo(REPO, FILES)
    hub.create_repo(BASE, {p.name: p.read_bytes() for p in SINGLE.iterdir()})
    hub.accounts.by_token[CANARY] = Caller("ann", "write", ())
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("LORATOOLS_DEBUG", "1")
    return Under(hub, monkeypatch)


def commands(folder: Path) -> list[list[object]]:
    adapter = write(folder / "adapter", FILES | {"README.md": b"---\nlicense: mit\n---\n# Hm\n"})
    return [
        ["pull", REPO, "-o", folder / "out", "--lock", folder / "lock"],
        ["inspect", f"hf://{REPO}"],
        ["merge", f"hf://{BASE}", f"hf://{REPO}", "-o", folder / "merged", "--json"],
        ["push", adapter, REPO, "--no-card", "--create", "--tag", "v1"],
        ["push", adapter, REPO, "--no-card", "--pr"],
    ]


def message(line: str) -> str:
    """What an error says: the line, or what is in it where `--json` has made an object of it."""
    return str(json.loads(line)["message"]) if line.startswith("{") else line


def hits(secrets: list[str], texts: list[str], *folders: Path) -> list[object]:
    """Where a secret is, of all that was printed or is on disk."""
    found = [text for text in texts for secret in secrets if secret in text]
    files = [path for folder in folders for path in folder.rglob("*")]
    found += [str(path) for path in files for secret in secrets if secret in str(path)]
    contents = {path: path.read_bytes() for path in files if path.is_file()}
    assert contents
    return found + [p for p, data in contents.items() for s in secrets if s.encode() in data]


@pytest.mark.parametrize("scene", SCENES.values(), ids=list(SCENES))
def test_the_token_is_nowhere(
    scene: Arrange,
    under: Under,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scene(under)
    results = [run_here(capsys, *command) for command in commands(tmp_path)]
    assert under.hub.rules == [] or all(rule.hits for rule in under.hub.rules)
    texts = [text for result in results for text in (result.out, result.err)]
    assert hits([CANARY], texts, tmp_path, home().parent) == []
    assert not (home() / "token").exists()
    assert not (home() / "stored_tokens").exists()


def test_a_token_is_not_in_the_one_line_either(
    under: Under, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token that is cut where the line is would be found no more, and yet half of it be there."""
    under.patch.delenv("LORATOOLS_DEBUG")
    under.hub.fail(Echo(400), times=None)
    results = [run_here(capsys, *command) for command in commands(tmp_path)]
    assert all(result.err.count("\n") == 1 and len(result.err) <= 501 for result in results)
    assert all("I know you: Bearer hf_…" in message(result.err) for result in results)
    assert hits([CANARY[:12]], [r.err + r.out for r in results], tmp_path, home().parent) == []


@pytest.mark.parametrize("scene", ["nothing wrong", "echo with 400", "token of nobody"])
def test_a_password_in_the_endpoint_is_nowhere(
    scene: str, under: Under, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = under.hub.endpoint.replace("://", f"://{USER}:{QUOTED}@")
    under.patch.setenv("HF_ENDPOINT", endpoint)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    under.patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    under.patch.setattr(constants, "ENDPOINT", endpoint)
    if scene != "token of nobody":
        under.hub.accounts.by_token[f"Basic {BASIC}"] = Caller("ann", "write", ())
        SCENES[scene](under)
    results = [run_here(capsys, *command) for command in commands(tmp_path)]
    assert {result.code for result in results[:3]} == {0 if scene == "nothing wrong" else 1}
    texts = [text for result in results for text in (result.out, result.err)]
    secrets = [PASSWORD, QUOTED, BASIC, CANARY]
    assert hits(secrets, texts, tmp_path, home().parent) == []


def test_the_token_is_nowhere_after_a_process(under: Under, tmp_path: Path) -> None:
    """As people run it: what the client prints when it is imported is seen too."""
    environment = under.hub.environment(tmp_path / "home", CANARY)
    results = [run_apart(*command, env=environment) for command in commands(tmp_path)[:1]]
    under.hub.fail(Echo(400), times=None)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "lock").unlink()  # else nothing is asked
    results += [run_apart(*command, env=environment) for command in commands(tmp_path)[::3]]
    assert [result.code for result in results] == [0, 1, 1]
    texts = [text for result in results for text in (result.out, result.err)]
    assert hits([CANARY], texts, tmp_path) == []
    assert not list(tmp_path.rglob("*token*"))


def test_what_is_to_be_private_is_not_sent_to_a_public_repository(
    under: Under, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = write(tmp_path / "adapter", FILES)
    under.patch.delenv("LORATOOLS_DEBUG")
    for repo, code in (("ann/new", 0), ("ann/new", 0), (REPO, 1)):
        head = under.hub.head(repo) if repo in under.hub.repos else None
        result = run_here(capsys, "push", adapter, repo, "--no-card", "--create", "--private")
        assert result.code == code
        assert under.hub.repos[repo].private == (code == 0)
    assert "is there already, and public" in result.err
    assert under.hub.head(REPO) == head


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:word@host/x", "http://host/x"),
        ("http://user:w@rd@host/x", "http://host/x"),
        ("http://host/ann@main", "http://host/ann@main"),
        ("hf://ann/plain@main", "hf://ann/plain@main"),
        (f"a{CANARY}b", "ahf_…b"),
    ],
    ids=["user", "at sign", "revision", "name", "token"],  # a token stays out of names of tests too
)
def test_what_is_redacted(text: str, shown: str, under: Under) -> None:
    assert token.redacted(text) == shown
