"""`pull --lock`: the same commit and the same bytes again, whatever the Hub says by then."""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loratools.hub.lock import Lock, Locked
from loratools.io import small
from loratools.io.small import only_one_in
from tests.e2e.commands import run_here, start
from tests.hub.faulty import BLOB, CONFIG, FILES, REPO, WEIGHTS, home, line_of
from tests.hub.server import Hub, faults

OTHER = "ann/other"
CHANGED = FILES[WEIGHTS][:-1] + bytes([FILES[WEIGHTS][-1] ^ 1])


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "loratools.lock"


@pytest.fixture
def plain(hub: Hub, sleeps: list[float]) -> Hub:
    hub.create_repo(REPO, FILES)
    return hub


def test_the_lock_holds_though_the_branch_moves(
    plain: Hub, lock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = plain.head(REPO)
    assert run_here(capsys, "pull", REPO, "--lock", lock).code == 0
    written = lock.read_bytes()
    plain.commit(REPO, {WEIGHTS: CHANGED})
    shutil.rmtree(home())
    plain.log.clear()
    result = run_here(capsys, "pull", REPO, "--lock", lock, "-o", tmp_path / "out", "--json")
    assert json.loads(result.out)["commit"] == locked
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert not plain.log.of("GET", f"{REPO}$")  # it does not ask where the branch is
    assert lock.read_bytes() == written


def lie(hub: Hub) -> None:
    """Other bytes at the same commit, and all that is said of them fits."""
    sha256 = hashlib.sha256(CHANGED).hexdigest()

    def listing(body: bytes) -> bytes:
        items = json.loads(body)
        for item in items:
            if item["path"] == WEIGHTS:
                item["lfs"]["oid"] = sha256
        return json.dumps(items).encode()

    hub.fail(faults.Body(listing), "/tree/", times=None)
    hub.fail(faults.Headers({"X-Linked-Etag": f'"{sha256}"'}), WEIGHTS, method="HEAD", times=None)
    hub.fail(faults.Body(lambda _: CHANGED), BLOB, times=None)


def test_other_bytes_at_the_same_commit_are_noticed_by_the_lock(
    plain: Hub, lock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(capsys, "pull", REPO, "--lock", lock).code == 0
    written = lock.read_bytes()
    shutil.rmtree(home())
    lie(plain)
    result = run_here(capsys, "pull", REPO, "--lock", lock, "-o", tmp_path / "out")
    assert result.code == 1
    assert f"other bytes than in {lock}, deleted: {WEIGHTS}" in line_of(result)
    assert not (tmp_path / "out").exists()
    assert lock.read_bytes() == written
    assert CHANGED not in [path.read_bytes() for path in home().rglob("*") if path.is_file()]
    assert run_here(capsys, "pull", REPO).code == 0  # which nobody could notice without a lock
    plain.rules.clear()
    shutil.rmtree(home())
    lie(plain)
    assert run_here(capsys, "pull", REPO, "--lock", lock).code == 1
    plain.rules.clear()
    assert run_here(capsys, "pull", REPO, "--lock", lock, "-o", tmp_path / "out").code == 0
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_a_config_with_other_bytes_than_in_the_lock_names_no_base(
    plain: Hub, lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(capsys, "pull", REPO, "--lock", lock).code == 0
    fields = json.loads(lock.read_text())
    fields["repositories"][REPO]["files"][CONFIG] = "0" * 64
    lock.write_text(json.dumps(fields))
    plain.log.clear()
    result = run_here(capsys, "pull", REPO, "--include-base", "--lock", lock)
    assert result.code == 1
    assert f"other bytes than in {lock}, deleted: {CONFIG}" in line_of(result)
    base = json.loads(FILES[CONFIG])["base_model_name_or_path"]
    assert base
    assert not plain.log.of(path=base)
    assert CONFIG not in [path.name for path in home().rglob("*")]


def test_another_repository_is_added_to_the_lock(
    plain: Hub, lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.create_repo(OTHER, FILES)
    assert run_here(capsys, "pull", REPO, "--lock", lock).code == 0
    first = json.loads(lock.read_text())["repositories"]
    assert run_here(capsys, "pull", OTHER, "--lock", lock).code == 0
    both = json.loads(lock.read_text())["repositories"]
    assert list(both) == [OTHER, REPO]
    assert both[REPO] == first[REPO]
    assert both[OTHER] == {
        "commit": plain.head(OTHER),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()},
    }


def test_a_file_that_the_lock_does_not_have_is_refused(
    plain: Hub, lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(capsys, "pull", REPO, "--lock", lock).code == 0
    fields = json.loads(lock.read_text())
    del fields["repositories"][REPO]["files"][CONFIG]
    lock.write_text(json.dumps(fields))
    result = run_here(capsys, "pull", REPO, "--lock", lock)
    assert result.code == 1
    assert f"{CONFIG} not in {lock}" in line_of(result)


def test_a_file_that_the_hub_does_not_list_any_more_is_noticed(
    plain: Hub, lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(capsys, "pull", REPO, "--lock", lock).code == 0
    fields = json.loads(lock.read_text())
    fields["repositories"][REPO]["files"]["tokenizer.json"] = "0" * 64
    lock.write_text(json.dumps(fields))
    result = run_here(capsys, "pull", REPO, "--lock", lock)
    assert result.code == 1
    assert f"tokenizer.json in {lock}, and not in what was asked for" in line_of(result)


def of(commit: object = "0" * 40, files: object = None) -> bytes:
    entry = {"commit": commit, "files": {} if files is None else files}
    return json.dumps({"version": 1, "repositories": {REPO: entry}}).encode()


MALFORMED = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "no version": b"{}",
    "a later version": b'{"version": 2, "repositories": {}}',
    "a list of repositories": b'{"version": 1, "repositories": []}',
    "an entry that is no object": b'{"version": 1, "repositories": {"a/b": []}}',
    "a branch for a commit": of("main"),
    "a number for a commit": of(5),
    "a list of files": of(files=[]),
    "a short hash": of(files={WEIGHTS: "0" * 40}),
    "a number for a hash": of(files={WEIGHTS: 5}),
    "cut off": of()[:-5],
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=list(MALFORMED))
def test_a_malformed_lock_is_refused_before_anything_is_asked(
    text: bytes, plain: Hub, lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock.write_bytes(text)
    result = run_here(capsys, "pull", REPO, "--lock", lock)
    assert result.code == 1
    assert str(lock) in line_of(result)
    assert not plain.log
    assert lock.read_bytes() == text


def test_a_lock_that_is_a_folder_or_in_none_is_refused_at_once(
    plain: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (tmp_path, tmp_path / "none" / "lock"):
        result = run_here(capsys, "pull", REPO, "--lock", place)
        assert result.code == 1
        line_of(result)
    assert not plain.log


def test_a_commit_that_contradicts_the_lock_is_refused(
    plain: Hub, lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = plain.head(REPO)
    assert run_here(capsys, "pull", REPO, "--lock", lock).code == 0
    later = plain.commit(REPO, {WEIGHTS: CHANGED})
    for name, *revision in ((REPO, "--revision", later), (f"{REPO}@{later}",)):
        result = run_here(capsys, "pull", name, *revision, "--lock", lock)
        assert result.code == 1
        assert f"at {locked}, not at {later}" in line_of(result)
    assert run_here(capsys, "pull", REPO, "--revision", locked, "--lock", lock).code == 0


def test_runs_at_once_lose_no_entry_of_the_lock(tmp_path: Path) -> None:
    """All have read the file when it was empty, and write it at the same time."""
    path = tmp_path / "lock"
    entries = {f"a/{n}": Locked("0" * 40, {WEIGHTS: f"{n:064}"}) for n in range(8)}
    ready = threading.Barrier(len(entries) + 1)

    def run(repo: str, entry: Locked) -> None:
        lock = Lock.read(path)
        lock.used[repo] = entry
        ready.wait()
        lock.write()

    runs = [threading.Thread(target=run, args=item) for item in entries.items()]
    for thread in runs:
        thread.start()
    ready.wait()
    while any(thread.is_alive() for thread in runs):  # never torn
        assert Lock.read(path).repositories.items() <= entries.items()
    assert Lock.read(path).repositories == entries
    assert [entry.name for entry in Path(tmp_path).iterdir()] == ["lock"]


def test_pulls_at_once_lose_no_entry_of_the_lock(plain: Hub, lock: Path, tmp_path: Path) -> None:
    """Each as a process of its own, which has to wait until the folder is free again."""
    repos = [REPO, OTHER, "ann/third"]
    for repo in repos[1:]:
        plain.create_repo(repo, FILES)
    environment = plain.environment(tmp_path / "home")
    with only_one_in(lock.parent):
        pulls = [start("pull", repo, "--lock", lock, env=environment) for repo in repos]
        asked = [f"^/{repo}/[0-9a-f]{{64}}" for repo in repos]
        assert wait_until(lambda: all(plain.log.of("GET", path) for path in asked))
        assert not lock.exists()
    for process in pulls:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, ""), out
    assert list(json.loads(lock.read_text())["repositories"]) == sorted(repos)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        threading.Event().wait(0.02)
    return condition()


@pytest.mark.parametrize("differs", ["commit", "bytes"])
def test_runs_at_once_that_note_different_things_are_refused(
    differs: str, plain: Hub, lock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The branch moves between two runs, and the other one is the first to write."""
    theirs = Locked(
        "1" * 40 if differs == "commit" else plain.head(REPO),
        dict.fromkeys(FILES, "1" * 64),
    )

    def note() -> None:
        other = Lock(lock)
        other.used[REPO] = theirs
        other.write()

    plain.before(BLOB, note)
    result = run_here(capsys, "pull", REPO, "--lock", lock, "-o", tmp_path / "out")
    assert result.code == 1
    assert "another run has noted" in line_of(result)
    assert not (tmp_path / "out").exists()
    assert Lock.read(lock).repositories == {REPO: theirs}


def test_what_is_noted_meanwhile_of_another_repository_stays(
    plain: Hub, lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = Locked("1" * 40, {WEIGHTS: "1" * 64})

    def note() -> None:
        Lock(lock, {}, {OTHER: theirs}).write()

    plain.before(BLOB, note)
    assert run_here(capsys, "pull", REPO, "--lock", lock).code == 0
    noted = Lock.read(lock).repositories
    assert noted[OTHER] == theirs
    assert noted[REPO].commit == plain.head(REPO)


def test_a_lock_in_a_folder_by_a_link_is_written(
    plain: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert run_here(capsys, "pull", REPO, "--lock", tmp_path / "link/lock").code == 0
    assert Lock.read(tmp_path / "real/lock").repositories.keys() == {REPO}


def test_a_folder_that_somebody_holds_for_long_is_an_error(
    plain: Hub, lock: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "_PATIENCE_SECONDS", 0.1)
    with only_one_in(lock.parent):
        result = run_here(capsys, "pull", REPO, "--lock", lock)
    assert result.code == 4
    assert "another program holds it" in line_of(result)


def test_a_lock_that_cannot_be_written_leaves_no_output(
    plain: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    replace = Path.replace

    def fails(self: Path, target: Path) -> Path:
        if target == lock:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    result = run_here(capsys, "pull", REPO, "--lock", lock, "-o", tmp_path / "out")
    assert result.code == 4
    assert "no space left" in line_of(result)
    assert list(tmp_path.iterdir()) == []
