"""A pull tells how many bytes have arrived, and a callback can stop it."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from threading import enumerate as enumerate_threads

import pytest
from huggingface_hub import constants

import loratools
from loratools import HubError
from tests.e2e.commands import SINGLE
from tests.hub.faulty import BLOB, CONFIG, FILES, REPO, WEIGHTS, home, unfinished
from tests.hub.server import Hub, faults

LARGE = 8_000_000
BASE = "ann/base"


@pytest.fixture
def with_base(hub: Hub) -> Hub:
    """A Hub with an adapter of which the base is there too."""
    config = json.loads(FILES[CONFIG]) | {"base_model_name_or_path": BASE, "revision": None}
    hub.create_repo(REPO, FILES | {CONFIG: json.dumps(config).encode()})
    hub.create_repo(BASE, {path.name: path.read_bytes() for path in SINGLE.iterdir()})
    return hub


def test_pull_tells_the_bytes_that_have_arrived(hub: Hub, tmp_path: Path) -> None:
    hub.create_repo(REPO, FILES)
    seen: list[tuple[int, int]] = []
    pulled = loratools.pull(
        REPO, output=tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {pulled.nbytes}
    assert seen[-1] == (pulled.nbytes, pulled.nbytes)


def test_what_a_callback_raises_stops_a_pull(hub: Hub, tmp_path: Path) -> None:
    hub.create_repo(REPO, FILES)

    def stop(done: int, total: int) -> None:
        raise EOFError

    with pytest.raises(EOFError):
        loratools.pull(REPO, output=tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_and_its_base_are_one_count(with_base: Hub, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pulled = loratools.pull(
        REPO,
        include_base=True,
        output=tmp_path / "out",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert pulled.base is not None
    total = pulled.nbytes + pulled.base.nbytes
    assert {told for _, told in seen} == {total}
    assert seen == sorted(seen)
    assert (seen[0][0], seen[-1][0]) == (0, total)
    assert pulled.nbytes in {done for done, _ in seen}, (
        "all of the adapter, and nothing of the base"
    )


def test_a_callback_can_stop_a_pull_between_an_adapter_and_its_base(
    with_base: Hub, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done > len(FILES[WEIGHTS]):
            raise EOFError

    with pytest.raises(EOFError):
        loratools.pull(REPO, include_base=True, output=tmp_path / "out", progress=stop)
    assert with_base.log.of(path=f"{REPO}/.*{WEIGHTS}")
    assert not with_base.log.of(path=f"{BASE}/.*safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("base", ["ann/none", "no name"])
def test_a_base_that_cannot_be_pulled_is_refused_before_any_weights_are_fetched(
    hub: Hub, sleeps: list[float], base: str
) -> None:
    config = json.loads(FILES[CONFIG]) | {"base_model_name_or_path": base}
    hub.create_repo(REPO, FILES | {CONFIG: json.dumps(config).encode()})
    seen: list[tuple[int, int]] = []
    with pytest.raises(HubError, match=base):
        loratools.pull(
            REPO, include_base=True, progress=lambda done, total: seen.append((done, total))
        )
    assert seen == []
    assert hub.log.of("GET", path=CONFIG)
    assert not hub.log.of(path=WEIGHTS)


def by_http(hub: Hub, patch: pytest.MonkeyPatch) -> Event:
    """Half of the file comes, and no more while somebody listens."""
    hub.fail(faults.Stall(LARGE // 2, 10), BLOB, method="GET")
    return Event()


def slowly(hub: Hub, patch: pytest.MonkeyPatch) -> Event:
    hub.fail(faults.Slow(LARGE), BLOB, method="GET")
    return Event()


def by_xet(hub: Hub, patch: pytest.MonkeyPatch) -> Event:
    """hf_xet asks for the chunks of the file, and gets no answer."""
    hub.settings.xet, go_on = True, Event()
    patch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.fail(faults.Before(lambda: go_on.wait(10)), "reconstructions", times=None)
    return go_on


@pytest.mark.parametrize("error", [ConnectionError, KeyboardInterrupt])
@pytest.mark.parametrize("way", [by_http, slowly, by_xet])
def test_what_a_callback_raises_stops_a_download_at_once(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[Hub, pytest.MonkeyPatch], Event],
    error: type[BaseException],
) -> None:
    """Nothing of it is left, but the files that have arrived whole are kept in the cache."""
    hub.create_repo(REPO, {CONFIG: FILES[CONFIG], WEIGHTS: os.urandom(LARGE)})
    go_on = way(hub, monkeypatch)

    def progress(done: int, total: int) -> None:
        if done > LARGE // 3 or hub.log.of(path="reconstructions"):
            stopped.append(time.monotonic())
            raise error

    stopped: list[float] = []
    with pytest.raises(error):
        loratools.pull(REPO, output=tmp_path / "out", progress=progress)
    assert time.monotonic() - stopped[0] < 1
    assert list(tmp_path.iterdir()) == []
    assert unfinished(home()) == []
    assert [path.name for path in home().rglob("snapshots/*/*")] == [CONFIG]
    go_on.set()


def test_a_pull_that_is_stopped_before_an_answer_asks_nothing_more(
    hub: Hub, tmp_path: Path
) -> None:
    hub.create_repo(REPO, FILES)
    go_on = Event()
    hub.fail(faults.Before(lambda: go_on.wait(10)), WEIGHTS, method="HEAD")
    stopped: list[float] = []

    def stop(done: int, total: int) -> None:
        if hub.log.of("HEAD", WEIGHTS):
            stopped.append(time.monotonic())
            raise EOFError

    with pytest.raises(EOFError):
        loratools.pull(REPO, output=tmp_path / "out", progress=stop)
    assert time.monotonic() - stopped[0] < 2
    go_on.set()
    for thread in enumerate_threads():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(10)
    assert hub.log.of("HEAD", WEIGHTS)[0].status == 302
    assert not hub.log.of("GET", BLOB)


def test_a_download_that_goes_on_after_a_break_is_told_from_there_on(
    hub: Hub, sleeps: list[float]
) -> None:
    """The client keeps whole pieces of ten megabytes, and asks for the rest."""
    size, broken_at = 12_000_000, 11_000_000
    hub.create_repo(REPO, {CONFIG: FILES[CONFIG], WEIGHTS: os.urandom(size)})
    hub.fail(faults.Cut(broken_at), BLOB, method="GET")
    hub.fail(faults.Slow(2_000_000), BLOB, method="GET", skip=1)
    seen: list[int] = []
    loratools.pull(REPO, progress=lambda done, total: seen.append(done))
    assert [r.status for r in hub.log.of("GET", BLOB)] == [200, 206]
    assert seen == sorted(seen)
    assert len({done for done in seen if broken_at < done < size}) > 2
