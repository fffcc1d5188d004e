"""A push tells how much is hashed and sent, by each way of sending, and a callback can stop it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
from huggingface_hub import constants

import loratools
from loratools import PushOptions
from tests.hub.faulty import BLOB, REPO
from tests.hub.server import Hub, faults

COMMIT = f"/api/models/{REPO}/commit/"
#: More than connections hold on their way: so nobody can have sent it all to a Hub that waits.
LARGE = 16_000_000
#: The name of a file that the Hub stores apart from git for its size.
NOTES = "notes.dat"

Seen = list[tuple[int, int]]


class EnoughError(Exception):
    """What a callback raises to stop a push."""


@pytest.fixture
def ann(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub.create_repo(REPO)
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    return hub


@pytest.fixture
def adapter(adapter: Path) -> Path:
    """The adapter, with a large file beside it."""
    (adapter / NOTES).write_bytes(os.urandom(LARGE))
    return adapter


def push(folder: Path, progress: Callable[[int, int], object], *, dry_run: bool = False) -> None:
    options = PushOptions(all_files=True, dry_run=dry_run)
    loratools.push(folder, REPO, options, progress=progress)


def total_of(folder: Path) -> int:
    """The bytes of all files, twice: they are hashed and sent."""
    return 2 * sum(path.stat().st_size for path in folder.iterdir())


def in_one_piece(hub: Hub, folder: Path, patch: pytest.MonkeyPatch) -> str:
    return BLOB


def in_parts(hub: Hub, folder: Path, patch: pytest.MonkeyPatch) -> str:
    hub.settings.part_size = LARGE // 4
    return f"{BLOB}/3"


def by_xet(hub: Hub, folder: Path, patch: pytest.MonkeyPatch) -> str:
    hub.settings.xet = True
    patch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    for path in folder.iterdir():
        hub.repos[REPO].store.add(path.read_bytes())
    return "/v1/xorbs/"


#: How the client sends a large file: each returns the path of a request with much of it.
Way = Callable[[Hub, Path, pytest.MonkeyPatch], str]
WAYS: list[Way] = [in_one_piece, in_parts, by_xet]


@pytest.mark.parametrize("way", WAYS)
def test_push_tells_the_bytes_that_are_hashed_and_those_that_are_sent(
    ann: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    sent_some, seen, total = Event(), [], total_of(adapter)
    ann.fail(faults.Held(0, sent_some), way(ann, adapter, monkeypatch))

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if LARGE < done < 2 * LARGE:
            sent_some.set()

    push(adapter, progress)
    assert sent_some.is_set(), "the Hub waited for it in vain"
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {total}
    assert (seen[0][0], seen[-1][0]) == (0, total)
    assert ann.files(REPO)[NOTES] == (adapter / NOTES).read_bytes()


def test_a_file_that_is_there_counts_as_done_while_others_are_sent(ann: Hub, adapter: Path) -> None:
    is_there(ann, adapter)
    (adapter / "more.dat").write_bytes(os.urandom(LARGE))
    is_told = Event()
    ann.fail(faults.Held(0, is_told), BLOB, method="PUT")

    def progress(done: int, total: int) -> None:
        # One is hashed and there, the other hashed; and it is being sent.
        if done > 3 * LARGE and ann.log.of("PUT")[-1].status is None:
            is_told.set()

    push(adapter, progress)
    assert is_told.is_set()


@pytest.mark.parametrize("error", [ConnectionError, KeyboardInterrupt])
@pytest.mark.parametrize("way", WAYS)
def test_what_a_callback_raises_stops_an_upload_at_once_and_no_commit_is_made(
    ann: Hub,
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
    error: type[BaseException],
) -> None:
    go_on, path, head = Event(), way(ann, adapter, monkeypatch), ann.head(REPO)
    ann.fail(faults.Held(0, go_on), path)

    def progress(done: int, total: int) -> None:
        if LARGE < done < 2 * LARGE:
            if way is not by_xet:  # which stops without the network
                go_on.set()
            raise error

    begun = time.monotonic()
    with pytest.raises(error):
        push(adapter, progress)
    assert time.monotonic() - begun < 4
    go_on.set()
    assert all(request.received < LARGE for request in ann.log.of(path=path))
    assert not ann.log.of(path=f"{COMMIT}|shards|/complete/")
    assert ann.head(REPO) == head


def test_what_a_callback_raises_stops_the_hashing(ann: Hub, adapter: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        push(adapter, stop)
    assert not ann.log.of("POST")


def nothing(hub: Hub, folder: Path) -> None:
    """Nothing has been pushed before."""


def is_there(hub: Hub, folder: Path) -> None:
    push(folder, lambda done, total: None)


def is_stored(hub: Hub, folder: Path) -> None:
    """The large file is in another branch of the repository: only the commit is sent."""
    hub.repos[REPO].store.add((folder / NOTES).read_bytes())


def is_tried_again(hub: Hub, folder: Path) -> None:
    hub.fail(faults.Reset(), COMMIT)


def breaks_off(hub: Hub, folder: Path) -> None:
    hub.fail(faults.ResetUpload(LARGE // 2), BLOB, method="PUT")


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("before", [nothing, is_there, is_stored, is_tried_again, breaks_off])
def test_progress_ends_at_the_whole_and_never_goes_back(
    ann: Hub,
    adapter: Path,
    sleeps: list[float],
    before: Callable[[Hub, Path], None],
    dry_run: bool,
) -> None:
    before(ann, adapter)
    seen: Seen = []
    push(adapter, lambda done, total: seen.append((done, total)), dry_run=dry_run)
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {total_of(adapter)}
    assert seen[-1][0] == seen[-1][1]


def test_a_callback_is_told_the_whole_before_the_commit(ann: Hub, adapter: Path) -> None:
    """So that whatever it raises, no commit was made."""
    head = ann.head(REPO)

    def stop(done: int, total: int) -> None:
        if done == total:
            raise EnoughError

    with pytest.raises(EnoughError):
        push(adapter, stop)
    assert ann.head(REPO) == head


def test_true_shows_one_bar_which_is_ours(
    ann: Hub,
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    by_xet(ann, adapter, monkeypatch)
    loratools.push(adapter, REPO, PushOptions(all_files=True), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("\r")
    assert err.endswith("\r"), "the bar was there, and is gone"
    assert "Processing" not in err
    assert "\n" not in err
