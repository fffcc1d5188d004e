"""A pull tells how many bytes have arrived, and a callback can stop it."""

from pathlib import Path

import pytest

import loratools
from tests.hub.faulty import FILES, REPO
from tests.hub.server import Hub


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
