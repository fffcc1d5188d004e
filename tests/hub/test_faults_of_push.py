"""`loratools push` under every fault: one commit or none, nobody's overwritten, and it heals."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import run_here
from tests.hub.client import write
from tests.hub.faulty import (
    BLOB,
    CONFIG,
    FILES,
    REPO,
    Arrange,
    Row,
    Under,
    both,
    each_of,
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
from tests.hub.test_faults_of_pull import DEEP, answers, bomb
from tests.narrowing import present

COMMIT = f"/api/models/{REPO}/commit/"
STEPS = [
    (f"/api/models/{REPO}/revision/main$", "GET"),
    ("/tree/", "GET"),
    ("/preupload/", "POST"),
    ("objects/batch", "POST"),
    (BLOB, "PUT"),
    ("objects/verify", "POST"),
    (COMMIT, "POST"),
]
BUSY = "busy or broken"
OLD = {CONFIG: b"{}\n"}
THEIRS = {"theirs.txt": b"theirs\n"}


def somebody_commits(under: Under) -> None:
    under.hub.commit(REPO, THEIRS, "Theirs", user="bob")


def lost(path: str, method: str = "POST") -> Arrange:
    return strikes(faults.LostAnswer(), path, method)


def with_options(*options: str) -> Arrange:
    return lambda under: under.options.extend(options)


def is_there(under: Under) -> None:
    under.hub.commit(REPO, FILES, user="ann")


def before_commit(under: Under) -> None:
    under.hub.before("/commit/", lambda: somebody_commits(under))


def after_commit(under: Under) -> None:
    """Somebody commits on top of ours before the next question."""
    under.hub.before(
        "/commit/", lambda: under.hub.before("/api/models/", lambda: somebody_commits(under))
    )


def lands_late(under: Under) -> None:
    """The first attempt is lost, and its commit is there only when the second is on its way."""
    under.hub.fail(faults.Reset(), COMMIT)
    late = faults.Before(lambda: under.hub.commit(REPO, FILES, user="ann"))
    under.hub.fail(late, COMMIT, skip=1)


def is_missing(under: Under) -> None:
    shutil.rmtree(under.hub.repos.pop(REPO).folder)


def has_card(text: str) -> Arrange:
    return lambda under: (under.folder / "README.md").write_text(text)


def is_private(under: Under) -> None:
    under.hub.repos[REPO].private = True


def commit_says(**fields: object) -> Arrange:
    """Other fields in the answer of the commit, which was made."""
    return strikes(faults.Body(lambda body: json.dumps(json.loads(body) | fields).encode()), COMMIT)


def uploads_to(address: str) -> Arrange:
    def changed(body: bytes) -> bytes:
        answer = json.loads(body)
        for item in answer["objects"]:
            item["actions"]["upload"]["href"] = address
        return json.dumps(answer).encode()

    return strikes(faults.Body(changed), "objects/batch", times=None)


ROWS = [
    Row("429 with Retry-After, once", each_of(STEPS, faults.Status(429, {"Retry-After": "7"}))),
    Row("503, once", each_of(STEPS, faults.Status(503))),
    Row("500, once", each_of(STEPS, faults.Status(500))),
    Row("429, always", strikes(faults.Status(429), times=None), 4, BUSY),
    Row("503, always", strikes(faults.Status(503), times=None), 4, BUSY),
    Row("500, always", strikes(faults.Status(500), times=None), 4, BUSY),
    Row(
        "503 of the commit, always", strikes(faults.Status(503), COMMIT, times=None), 4, "no commit"
    ),
    Row(
        "500 of the commit, always", strikes(faults.Status(500), COMMIT, times=None), 4, "no commit"
    ),
    Row("connection reset before the answer, once", each_of(STEPS, faults.Reset())),
    Row("connection reset, always", strikes(faults.Reset(), times=None), 4, "cannot be reached"),
    Row(
        "connection reset before the commit, always",
        strikes(faults.Reset(), COMMIT, times=None),
        4,
        "no commit was made",
    ),
    Row("connection reset in an upload, once", strikes(faults.ResetUpload(50_000), BLOB, "PUT")),
    Row("lost answer of the commit", lost(COMMIT), ends="one commit"),
    Row(
        "lost answer of the commit, and somebody's commit on top",
        both(after_commit, lost(COMMIT)),
        ends="ours is found below theirs",
        commits=2,
        takes_turns=True,
    ),
    Row("commit that lands late", lands_late, ends="one commit"),
    Row(
        "a page in place of the commit's answer",
        strikes(faults.Body(lambda _: b"<html>"), COMMIT),
        ends="one commit",
    ),
    Row(
        "commit's answer with a number for the commit", commit_says(commitOid=5), ends="one commit"
    ),
    Row(
        "commit's answer with a text for the commit", commit_says(commitOid="x"), ends="one commit"
    ),
    Row("commit's answer nested 100,000 deep", answers(COMMIT, DEEP), ends="one commit"),
    Row(
        "compressed bomb in place of the commit's answer",
        bomb(COMMIT, "POST", 1),
        ends="one commit",
    ),
    Row(
        "commit's answer without an end", strikes(faults.Endless(2**28), COMMIT), ends="one commit"
    ),
    Row(
        "upload's answer without an end",
        strikes(faults.Endless(2**28), BLOB, "PUT", times=None),
        ends="one commit",
    ),
    Row("upload to no address", uploads_to("http://a:b:c/"), 4, "no commit was made"),
    Row("upload to an address without a scheme", uploads_to("/x"), 4, "no commit was made"),
    Row("a page in place of the upload's address", answers("objects/batch", b"<html>"), 4, "not"),
    Row("upload's addresses nested 100,000 deep", answers("objects/batch", DEEP), 4, "not"),
    Row(
        "somebody commits in between",
        before_commit,
        1,
        "somebody has committed",
        "nothing is overwritten",
        commits=1,
        takes_turns=True,
    ),
    Row(
        "somebody commits in between, and the answer is lost",
        both(before_commit, strikes(faults.LostAnswer(), COMMIT)),
        1,
        "somebody has committed",
        "nothing is overwritten",
        commits=1,
        takes_turns=True,
    ),
    Row(
        "lost answer of the new repository",
        both(is_missing, with_options("--create"), lost("/repos/create")),
    ),
    Row("lost answer of an upload", lost(BLOB, "PUT")),
    Row("lost answer of the tag", both(with_options("--tag", "v1"), lost("/tag/"))),
    Row("lost answer of the new branch", both(with_options("--branch", "side"), lost("/branch/"))),
    Row(
        "lost answer of the pull request",
        both(with_options("--pr"), lost(COMMIT)),
        ends="one pull request",
    ),
    Row("nothing to change", is_there, ends="no commit", commits=0),
    Row(
        "README.md that the Hub refuses",
        has_card("---\nlicense: 5\n---\n# An adapter\n"),
        1,
        '"license" must be a string',
    ),
    Row("README.md that the Hub warns of", has_card("# An adapter\n")),
    Row("private", both(is_private, has_token("bob")), 1, "private one that the token"),
    Row("no such repository", both(is_missing, sends_to("ann/none")), 1, "no such repository"),
    Row("token of nobody", has_token(None), 1, "the token is not valid"),
    Row(
        "no token", lambda under: under.patch.setenv("HF_TOKEN", ""), 1, "give a token in HF_TOKEN"
    ),
    Row("token that may only read", has_token("ann", "read"), 1, "no right to this"),
    Row("somebody else's repository", has_token("bob"), 1, "no right to this"),
    Row("nobody listens", is_nowhere, 4, "cannot be reached"),
    Row("offline, and not in the cache", goes_offline, 4, "offline"),
]


@pytest.fixture
def under(
    hub: Hub, sleeps: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Under]:
    hub.create_repo(REPO, OLD)
    folder = write(tmp_path / "adapter", FILES)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    with pytest.MonkeyPatch.context() as patch:
        yield Under(hub, patch, folder)


def commits(hub: Hub, revision: str = "main") -> int:
    """How many there are; a repository that is made has one."""
    repo = hub.repos.get(REPO)
    return 1 if repo is None else len(list(repo.git.history(repo.resolve(revision))))


def has_files(hub: Hub, revision: str = "main") -> bool:
    there = hub.files(REPO, revision)
    return all(there.get(path) == data for path, data in FILES.items())


def revision_of(options: list[str]) -> str:
    if "--pr" in options:
        return "refs/pr/1"
    return "side" if "side" in options else "main"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fault)
def test_a_push_makes_one_commit_or_none(
    row: Row, under: Under, sleeps: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = under.hub
    row.arrange(under)
    before = commits(hub)
    result = run_here(capsys, "push", under.folder, *under.repo, "--no-card", *under.options)
    assert all(rule.hits for rule in hub.rules), "the fault did not strike"
    assert result.code == row.code, result.err
    assert "Retry-After" not in row.fault or 7.0 in sleeps
    if row.code:
        assert row.says in line_of(result)
    else:
        assert result.err == ""
        assert has_files(hub, revision_of(under.options))
        named = present(re.search(f"hf://{REPO}@([0-9a-f]{{40}})", result.out))[1]
        assert hub.repos[REPO].git.read_commit(named).author == "ann"
    if REPO in hub.repos:
        made = (1 if row.code == 0 else 0) if row.commits is None else row.commits
        assert commits(hub, revision_of(under.options)) - before == made
        assert len(hub.repos[REPO].pulls) == under.options.count("--pr")
        assert hub.repos[REPO].git.refs("refs/tags/").keys() == {"v1"} & {*under.options}
        assert hub.fsck(REPO) == ""
        assert row.code == 0 or hub.files(REPO)[CONFIG] == OLD[CONFIG]
        assert row.takes_turns == (hub.files(REPO).get("theirs.txt") == THEIRS["theirs.txt"])
    assert unfinished(tmp_path, home()) == []
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("row", [row for row in ROWS if row.code], ids=lambda row: row.fault)
def test_the_next_push_succeeds(row: Row, under: Under, capsys: pytest.CaptureFixture[str]) -> None:
    row.arrange(under)
    failed = run_here(capsys, "push", under.folder, *under.repo, "--no-card", *under.options)
    assert failed.code == row.code
    under.heal()
    (under.folder / "README.md").unlink(missing_ok=True)
    before = commits(under.hub)
    result = run_here(capsys, "push", under.folder, REPO, "--no-card", "--create")
    assert (result.code, result.err) == (0, "")
    assert commits(under.hub) - before == 1
    assert has_files(under.hub)
