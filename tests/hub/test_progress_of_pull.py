"""A pull tells how many bytes have arrived, and a callback can stop it."""

import json
from pathlib import Path

import pytest

import loratools
from loratools import HubError
from tests.e2e.commands import SINGLE
from tests.hub.faulty import CONFIG, FILES, REPO, WEIGHTS
from tests.hub.server import Hub

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
        if done:
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
