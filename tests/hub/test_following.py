"""A file that is followed while it grows has its hash when it is whole, or none at all."""

import hashlib
import time
from pathlib import Path

import pytest

from loratools.hub import client, reading, repository
from loratools.hub.following import following
from loratools.hub.names import HubFile
from loratools.hub.repository import Repository

CHUNKS = [b"first", b"x" * 5_000_000, b"", b"last"]


def written(path: Path, chunks: list[bytes] = CHUNKS, pause: float = 0.01) -> None:
    with path.open("wb", buffering=0) as file:
        for chunk in chunks:
            file.write(chunk)
            time.sleep(pause)


@pytest.mark.parametrize("pause", [0, 0.02])
def test_the_hash_of_a_file_that_grew_and_was_renamed(tmp_path: Path, pause: float) -> None:
    with following(tmp_path, "abc.*") as follower:
        written(tmp_path / "other.incomplete")
        written(tmp_path / "abc.1.incomplete", pause=pause)
        found = (tmp_path / "abc.1.incomplete").rename(tmp_path / "abc")
        time.sleep(pause)
    expected = hashlib.sha256(b"".join(CHUNKS)).hexdigest()
    # What appears and is renamed between two looks is never seen.
    assert follower.digest_of(found) == expected or pause == 0


def test_no_hash_of_what_was_never_seen(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"here before")
    with following(tmp_path, "abc.*") as follower:
        time.sleep(0.02)
    assert follower.digest_of(path) is None
    with following(tmp_path / "nowhere", "abc.*") as follower:
        pass
    assert follower.digest_of(path) is None


def test_no_hash_of_another_file_or_of_one_that_changed_since(tmp_path: Path) -> None:
    with following(tmp_path, "abc.*") as follower:
        written(tmp_path / "abc.1")
    assert follower.digest_of(tmp_path / "abc.1")
    (tmp_path / "other").write_bytes(b"".join(CHUNKS))
    assert follower.digest_of(tmp_path / "other") is None
    with (tmp_path / "abc.1").open("ab") as file:
        file.write(b"more")
    assert follower.digest_of(tmp_path / "abc.1") is None


def test_a_file_that_is_begun_anew_never_has_the_hash_of_what_it_holds(tmp_path: Path) -> None:
    """It was hashed from its first beginning on, so it is read again."""
    path = tmp_path / "abc.1"
    with following(tmp_path, "abc.*") as follower, path.open("wb", buffering=0) as file:
        file.write(b"begun")
        time.sleep(0.05)
        file.seek(0)
        file.truncate()
        file.write(b"quite another beginning")
    assert follower.digest_of(path) != hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("is_begun_anew", [False, True])
def test_what_was_hashed_on_its_way_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_begun_anew: bool
) -> None:
    content = b"".join(CHUNKS)
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(client, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(repository, "_state", lambda: tmp_path / "state")
    blobs = tmp_path / "models--ann--x" / "blobs"
    blobs.mkdir(parents=True)

    def download(repo: str, commit: str, file: HubFile) -> Path:
        path = blobs / f"{digest}.1.incomplete"
        with path.open("wb", buffering=0) as begun:
            if is_begun_anew:
                begun.write(b"y" * 100)
                time.sleep(0.05)
                begun.seek(0)
                begun.truncate()
            for chunk in CHUNKS:
                begun.write(chunk)
                time.sleep(0.02)
        return path.rename(blobs / digest)

    read = []
    monkeypatch.setattr(reading, "cached", lambda *_: None)
    monkeypatch.setattr(reading, "download", download)

    def digest_like(*_: object) -> str:
        read.append(1)
        return digest

    monkeypatch.setattr(repository, "digest_like", digest_like)
    listed = HubFile("x", len(content), digest)
    monkeypatch.setattr(Repository, "files", {"x": listed})
    assert Repository("ann/x", "0" * 40).fetch(["x"]) == {"x": blobs / digest}
    assert bool(read) == is_begun_anew
