"""What comes from elsewhere is read to a limit, and the page about limits has the real ones."""

import json
import re
import time
from pathlib import Path

import pytest

from loratools.errors import HubError, NetworkError
from loratools.hub import answers, names, reading, session, token
from loratools.io import folder, header_rules, regex, small
from loratools.io import json as strict_json
from loratools.publishing import written
from loratools.publishing.card import front_matter
from tests.e2e.commands import run_here
from tests.hub.client import write
from tests.hub.faulty import CONFIG, FILES, REPO, WEIGHTS, line_of
from tests.hub.server import Hub, faults
from tests.hub.server.faults import Body
from tests.hub.server.log import Origin

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "limits.md"
TABLE = {
    "the header of a safetensors file": [header_rules.MAX_HEADER_BYTES],
    "a JSON file": [folder.MAX_JSON_BYTES],
    "nesting of lists and objects, in any JSON": [strict_json._DEEPEST],
    "a regular expression of a config": [regex.CPU_SECONDS, regex.MEMORY_BYTES],
    "a model card or its template": [written._MAX_TEXT_BYTES],
    "the front matter of a card": [front_matter.LONGEST],
    "nesting of lists and mappings, in front matter": [front_matter._DEEPEST],
    "a number in front matter": [front_matter._LONGEST_NUMBER],
    "a file from a Hub": [],
    "another answer of a Hub": [session.LONGEST_ANSWER],
    "the listing of a repository": [reading.MOST_FILES, reading.MOST_PAGES],
    "a path in a repository": [names._PATH_LENGTH, names._NAME_BYTES],
    "the pause that a Hub asks for": [session.LONGEST_WAIT_SECONDS],
    "a Hub that stops in the middle of an answer": [int(session._PATIENCE_SECONDS["read"])],
    "a file with a token": [token._LONGEST_FILE],
    "waiting for others who write the same lock file": [int(small._PATIENCE_SECONDS)],
}
REFS = {
    "a list": b"[]",
    "no tags": b"{}",
    "tags that are null": b'{"tags": null}',
    "a tag that is a text": b'{"tags": ["v1"]}',
    "a tag without a commit": b'{"tags": [{"name": "v1"}]}',
    "a tag of a branch": b'{"tags": [{"name": "v1", "targetCommit": "main"}]}',
    "a tag that is a number": b'{"tags": [{"name": 1, "targetCommit": "%s"}]}' % (b"0" * 40),
}


@pytest.fixture
def ready(hub: Hub, sleeps: list[float], monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub.create_repo(REPO, FILES)
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    return hub


def test_the_page_has_the_limits_of_the_program() -> None:
    numbers, _, _ = PAGE.read_text(encoding="utf-8").partition("\n## ")
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", numbers, re.MULTILINE)[1:]
    found = {
        what: [int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", most)]
        for what, most in rows
    }
    assert found == TABLE


@pytest.mark.parametrize("body", REFS.values(), ids=list(REFS))
@pytest.mark.parametrize("option", [["--tag", "v1"], ["--pr"]], ids=["tags", "pull requests"])
def test_references_are_read_by_their_types(
    option: list[str], body: bytes, ready: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if option == ["--pr"]:
        body = body.replace(b"tags", b"pullRequests").replace(b"name", b"ref")
    head = ready.head(REPO)
    ready.fail(faults.Body(lambda _: body), "/refs$", times=None)
    adapter = write(tmp_path / "adapter", FILES | {CONFIG: FILES[CONFIG] + b"\n"})
    result = run_here(capsys, "push", adapter, REPO, "--no-card", *option)
    assert result.code == 1
    line_of(result)
    assert ready.head(REPO) == head


@pytest.mark.parametrize("number", ["x", "", "-1", "9" * 5000, "²"])
def test_a_pull_request_has_a_number(number: str, ready: Hub) -> None:
    refs = {"pullRequests": [{"ref": f"refs/pr/{number}", "targetCommit": "0" * 40}]}
    ready.fail(faults.Body(lambda _: json.dumps(refs).encode()), "/refs$", times=None)
    with pytest.raises(HubError, match="is no pull request"):
        reading.proposals(REPO)


def lists(size: int, path: str) -> Body:
    """A listing in which a file has another size."""

    def changed(body: bytes) -> bytes:
        items = json.loads(body)
        return json.dumps(
            [item | {"size": size} if item["path"] == path else item for item in items]
        ).encode()

    return faults.Body(changed)


def test_a_config_that_is_listed_too_large_is_not_fetched(
    ready: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    ready.fail(lists(10**12, CONFIG), "/tree/", times=None)
    result = run_here(capsys, "inspect", f"hf://{REPO}")
    assert result.code == 1
    assert "too many for a JSON file" in line_of(result)
    assert not ready.log.of(path=f"resolve.*{CONFIG}")


def test_a_card_that_is_listed_too_large_is_not_fetched(
    ready: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready.commit(REPO, {"README.md": b"# Hm\n"})
    ready.fail(lists(10**12, "README.md"), "/tree/", times=None)
    result = run_here(capsys, "push", write(tmp_path / "adapter", FILES), REPO)
    assert result.code == 1
    assert "too many for a card" in line_of(result)
    assert not ready.log.of(path="resolve.*README")


def test_a_listing_of_too_many_files_is_refused(
    ready: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_FILES", 2)
    result = run_here(capsys, "pull", REPO)  # there are three, with .gitattributes
    assert result.code == 1
    assert "lists more than 2 entries" in line_of(result)


def test_a_file_longer_than_listed_is_not_stored_whole(
    ready: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    ready.fail(lists(5, WEIGHTS), "/tree/", times=None)
    result = run_here(capsys, "pull", REPO)
    assert result.code == 1
    assert "sends more than 5 bytes" in line_of(result)


def test_a_part_longer_than_asked_for_is_not_read(
    ready: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a header that is read by ranges."""
    ready.fail(faults.Endless(2**28), REPO, origin="storage", times=None)
    result = run_here(capsys, "inspect", f"hf://{REPO}")
    assert result.code == 1
    assert "sends more than" in line_of(result)


@pytest.mark.parametrize("path", ["/tree/", f"{REPO}$"], ids=["listing", "commit"])
def test_a_hub_that_stalls_is_not_waited_for(
    path: str, ready: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(session._PATIENCE_SECONDS, "read", 0.2)
    ready.fail(faults.Stall(10, seconds=30), path)
    begin = time.monotonic()
    assert run_here(capsys, "pull", REPO).code == 0  # asked again
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    ("headers", "waits"),
    [
        ({"Retry-After": "9" * 9}, 60),
        ({"Retry-After": "9" * 5000}, 60),
        ({"Retry-After": "61"}, 60),
        ({"Retry-After": "59"}, 59),
        ({"RateLimit": '"api";r=0;t=999999'}, 60),
        ({"RateLimit": f'"api";r=0;t={"9" * 5000}'}, 60),
    ],
)
def test_a_pause_is_a_minute_at_most(
    headers: dict[str, str],
    waits: int,
    ready: Hub,
    sleeps: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    places: list[tuple[str, Origin]] = [("/tree/", "hub"), (REPO, "storage")]
    for path, origin in places:
        ready.fail(faults.Status(429, headers), path, origin=origin)
    assert run_here(capsys, "pull", REPO).code == 0
    assert max(sleeps) in {waits, waits + 1.0}


def test_the_same_name_in_other_letters_is_refused_where_both_are_fetched() -> None:
    for one, other in (("a/B", "a/b"), ("é", "e\u0301"), ("ß", "SS")):
        with pytest.raises(HubError, match="are one name on some disks"):
            answers.check_distinct([one, "x", other], "hf://a/b")
    answers.check_distinct(["a", "a/b", "b"], "hf://a/b")


def test_an_answer_that_is_no_json_may_be_of_somebody_in_between() -> None:
    with pytest.raises(NetworkError, match="not the answer of a Hub"):
        answers.parsed(b"<html>", "hf://a/b")
    with pytest.raises(HubError, match="not valid JSON"):
        answers.parsed(b" [", "hf://a/b")
