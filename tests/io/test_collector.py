"""The garbage collector is left as it was, and does not look through what was built meanwhile."""

import gc
from collections.abc import Iterator

import pytest

from loratools.io.collector import collector_paused


@pytest.fixture
def runs() -> Iterator[list[str]]:
    """One entry for each run of the collector."""
    seen: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        seen.append(phase)

    gc.collect()
    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)


def test_what_was_built_is_not_looked_through(runs: list[str]) -> None:
    with collector_paused():
        kept = [[number] for number in range(100_000)]
    kept.append([])
    assert gc.isenabled()
    assert runs == []


def test_garbage_is_collected_after_a_pause(runs: list[str]) -> None:
    with collector_paused():
        pass
    kept = [[number] for number in range(100_000)]
    assert kept
    assert runs


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_somebody_has_frozen_stays_frozen() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with collector_paused():
            pass
        assert frozen > 0
        assert gc.get_freeze_count() > frozen / 2  # some of them are gone by now
    finally:
        gc.unfreeze()
