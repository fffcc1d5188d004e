"""What a pull promises besides: names that stay inside, no pickles, no needless request."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
from httpx2 import Client
from huggingface_hub import HfApi, constants, hf_hub_download, set_client_factory
from huggingface_hub.utils import _http

import loratools
from loratools.errors import StorageError
from loratools.io.small import replace_text
from loratools.publishing.pull import pull
from tests.disks import cloning
from tests.e2e.commands import run_apart, run_here, start
from tests.hub.faulty import BLOB, CONFIG, FILES, REPO, WEIGHTS, everything, home, line_of
from tests.hub.server import Hub, faults


@pytest.fixture
def plain(hub: Hub, sleeps: list[float]) -> Hub:
    hub.create_repo(REPO, FILES)
    return hub


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def goes_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


# --- names stay inside ----------------------------------------------------------------------------

OUTSIDE = ["../../../../outside", "..", "/outside", "a\\..\\outside", "a/../../b"]


@pytest.mark.parametrize("revision", OUTSIDE)
@pytest.mark.parametrize("given", ["option", "name", "config"])
def test_a_revision_is_no_way_out_of_the_cache(
    revision: str, given: str, plain: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in the cache is named by it, even where a Hub says that there is such a revision."""
    answer = json.dumps({"id": REPO, "sha": "1" * 40, "siblings": []}).encode()
    plain.fail(faults.Body(lambda _: answer), "/revision/", times=None)
    named = {"peft_type": "LORA", "base_model_name_or_path": REPO, "revision": revision}
    plain.create_repo("ann/adapter", FILES | {CONFIG: json.dumps(named).encode()})
    command = {
        "option": ["pull", REPO, "--revision", revision],
        "name": ["pull", f"{REPO}@{revision.replace('/', '%2F')}"],
        "config": ["pull", "ann/adapter", "--include-base"],
    }[given]
    assert run_here(capsys, *command).code == 1
    assert not plain.log.of(path="/revision/")
    assert not [path for path in everything(home().parent) if "outside" in path]


def test_links_are_inside_the_cache_only(plain: Hub, tmp_path: Path) -> None:
    pulled = pull(REPO, output=tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_symlink()]
    links = [path for path in home().rglob("*") if path.is_symlink()]
    assert len(links) == len(pulled.files)
    assert all(link.resolve().is_relative_to(home() / "hub") for link in links)


def test_two_contents_under_one_hash_are_not_mixed_up(
    plain: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client would make one file in its cache of both, and a pull would copy it twice."""
    listed = plain.repos[REPO].files(plain.head(REPO))
    lie = faults.Headers({"X-Linked-Etag": f'"{listed[CONFIG].etag}"'})
    plain.fail(lie, WEIGHTS, method="HEAD", times=None)
    result = run_here(capsys, "pull", REPO, "-o", tmp_path / "out")
    assert result.code == 1
    assert "another content" in line_of(result)


# --- pickles --------------------------------------------------------------------------------------

BOMB = b"cos\nsystem\n(S'touch exploded'\ntR."
LAZY = [
    lambda name, out: ["pull", name, "-o", out],
    lambda name, out: ["pull", f"{name}/adapter_model.bin", "-o", out],
    lambda name, out: ["inspect", f"hf://{name}"],
    lambda name, out: ["inspect", f"hf://{name}", "--check"],
    lambda name, out: ["rescale", f"hf://{name}", "--strength", "2", "-o", out],
]


@pytest.mark.parametrize("command", LAZY, ids=["pull", "pull file", "inspect", "check", "rescale"])
def test_a_pickle_is_not_even_fetched(
    command: Callable[[str, Path], list[str | Path]],
    hub: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.create_repo("ann/pickled", {CONFIG: FILES[CONFIG], "adapter_model.bin": BOMB})
    result = run_here(capsys, *command("ann/pickled", tmp_path / "out"))
    assert result.code == 1
    assert "adapter_model.bin: a pickle" in line_of(result)
    assert not hub.log.of(path="adapter_model.bin")
    assert not hub.log.of(origin="storage")
    assert list(tmp_path.iterdir()) == []


def test_a_pickle_beside_the_weights_stays_there(hub: Hub, tmp_path: Path) -> None:
    hub.create_repo(REPO, FILES | {"adapter_model.bin": BOMB, "optimizer.pt": BOMB})
    pull(REPO, output=tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    assert len(hub.log.of("GET", origin="storage")) == 1


# --- requests -------------------------------------------------------------------------------------


def test_a_second_pull_asks_for_the_branch_only_and_one_of_a_commit_for_nothing(
    plain: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = plain.head(REPO)
    pull(REPO)
    plain.log.clear()
    pull(REPO, output=tmp_path / "branch")
    assert [str(r) for r in plain.log] == [f"hub: GET /api/models/{REPO} -> 200"]
    plain.log.clear()
    pull(f"{REPO}@{head}", output=tmp_path / "commit")
    goes_offline(monkeypatch)
    pull(REPO, output=tmp_path / "offline")
    assert not plain.log
    for name in ("branch", "commit", "offline"):
        assert contents(tmp_path / name) == FILES


def test_offline_nothing_is_written_to_the_cache(
    plain: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may belong to somebody else."""
    pull(REPO)
    goes_offline(monkeypatch)
    before = {path: path.lstat().st_mtime_ns for path in home().rglob("*")}
    pull(REPO)
    assert {path: path.lstat().st_mtime_ns for path in home().rglob("*")} == before


def test_the_option_offline_makes_no_request(plain: Hub, tmp_path: Path) -> None:
    environment = plain.environment(tmp_path / "home")
    result = run_apart("pull", REPO, "--offline", env=environment)
    assert (result.code, plain.log[:]) == (4, [])
    assert "offline, and not in the cache" in line_of(result)


def test_an_output_that_is_there_is_refused_before_anything_is_asked(
    plain: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_here(capsys, "pull", REPO, "-o", tmp_path)
    assert result.code == 1
    assert "exists already" in line_of(result)
    assert not plain.log


# --- several at once, and the end of one ----------------------------------------------------------


def test_two_processes_pull_the_same_at_once(hub: Hub, tmp_path: Path) -> None:
    hub.create_repo(REPO, FILES)
    hub.fail(faults.Slow(400_000), BLOB, times=2)
    environment = hub.environment(tmp_path / "home")
    runs = [start("pull", REPO, "-o", tmp_path / name, env=environment) for name in ("a", "b")]
    for run in runs:
        _, said = run.communicate(timeout=60)
        assert (run.returncode, said) == (0, "")
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == FILES


def test_two_threads_pull_the_same_at_once(plain: Hub, tmp_path: Path) -> None:
    places = [tmp_path / str(number) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda place: pull(REPO, output=place), places))
    assert all(contents(place) == FILES for place in places)


def test_what_a_killed_pull_leaves_is_taken_over(hub: Hub, tmp_path: Path) -> None:
    hub.create_repo(REPO, FILES)
    hub.fail(faults.Slow(100_000), BLOB)
    environment = hub.environment(tmp_path / "home")
    killed = start("pull", REPO, "-o", tmp_path / "out", env=environment)
    while not hub.log.of("GET", BLOB):
        time.sleep(0.01)
    time.sleep(0.2)
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "out").exists()
    hub.rules.clear()
    result = run_apart("pull", REPO, "-o", tmp_path / "out", env=environment)
    assert (result.code, result.err) == (0, "")
    assert contents(tmp_path / "out") == FILES


def test_a_file_damaged_in_the_cache_is_fetched_again(plain: Hub, tmp_path: Path) -> None:
    cached = Path(pull(REPO).folder) / WEIGHTS
    cached.resolve().write_bytes(b"damaged")
    pull(REPO, output=tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


def test_a_note_that_is_torn_is_made_again(plain: Hub, tmp_path: Path) -> None:
    pull(REPO)
    notes = [path for path in (home() / "loratools").rglob("*") if path.is_file()]
    assert notes
    for note in notes:
        note.write_text("{")
    pull(REPO, output=tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


# --- notes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.open"])
def test_a_text_that_cannot_be_replaced_is_the_old_one(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "note"
    replace_text(path, "old")

    def full(*_: object, **__: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fails, full)
        with pytest.raises(StorageError, match="note: no space left on device"):
            replace_text(path, "new")
    assert contents(tmp_path) == {"note": b"old"}


def test_threads_replace_a_text_at_once(tmp_path: Path) -> None:
    path = tmp_path / "note"
    writers = [threading.Thread(target=replace_text, args=(path, str(n) * 999)) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(set(path.read_text())) == 1
    assert list(tmp_path.iterdir()) == [path]


# --- the client of the rest of the program --------------------------------------------------------


def test_other_users_of_the_client_are_left_alone(plain: Hub) -> None:
    """ETags of the Hub's pages have slashes; and who trusts a Hub may go on to do so."""
    pull(REPO)
    shutil.rmtree(home())
    etag = faults.Headers({"ETag": 'W/"2a-abc/def+gh="'})
    plain.fail(etag, "/api/", times=None)
    lie = faults.Headers({"X-Linked-Etag": '"another"'})
    plain.fail(lie, WEIGHTS, method="HEAD")
    assert HfApi(endpoint=plain.endpoint).repo_info(REPO).sha == plain.head(REPO)
    assert Path(hf_hub_download(REPO, WEIGHTS, endpoint=plain.endpoint)).read_bytes()
    assert loratools.inspect(f"hf://{REPO}").parameters


@pytest.fixture
def own_factory() -> Iterator[list[Client]]:
    """A program's own client, set after the import of loratools: for a proxy, or a certificate."""
    made = []
    before = _http._GLOBAL_CLIENT_FACTORY

    def factory() -> Client:
        made.append(_http.default_client_factory())
        return made[-1]

    set_client_factory(factory)
    yield made
    set_client_factory(before)


def test_a_client_of_ones_own_is_used_and_checked(
    own_factory: list[Client], plain: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    lie = faults.Headers({"X-Linked-Etag": '"../../../outside"'})
    plain.fail(lie, WEIGHTS, method="HEAD", times=None)
    assert run_here(capsys, "pull", REPO).code == 1
    huggingface_hub.close_session()  # as the client does when it cannot connect
    result = run_here(capsys, "pull", REPO)
    assert "another content" in line_of(result)
    assert len(own_factory) >= 2
    assert not [path for path in everything(home().parent) if "outside" in path]


def test_a_copy_of_what_can_be_cloned_needs_no_room(
    plain: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in the cache are as good as copied where the file system makes clones."""
    large = {"README.md": b"#" * 3_000_000}
    plain.create_repo("ann/large", FILES | large)
    pull("ann/large")
    free = shutil.disk_usage(tmp_path)._replace(free=2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(StorageError, match="bytes are needed and 2000000 are free"):
        pull("ann/large", output=tmp_path / "copied")
    with cloning() as fake:
        pull("ann/large", output=tmp_path / "cloned")
    assert fake.nbytes > 2_900_000
    assert (tmp_path / "cloned/README.md").read_bytes() == large["README.md"]
