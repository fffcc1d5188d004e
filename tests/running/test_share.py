"""The share of the work that is done never falls, and is all of it at the end."""

import threading
from collections.abc import Sequence

import pytest

from loratools.running.parallel import threads
from loratools.running.share import Meter, Span, here, split

Told = list[tuple[int, int]]


def told_by(progress: Told, *, total: int, weights: Sequence[int], sizes: Sequence[int]) -> None:
    """Record what is told of phases with these weights, and these numbers of calls."""
    with threads(1, lambda *numbers: progress.append(numbers), total) as each:
        for phase, size in zip(split(each, *weights), sizes, strict=True):
            assert list(phase(abs, range(size))) == [*range(size)]


def test_each_phase_adds_its_weight() -> None:
    seen: Told = []
    told_by(seen, total=100, weights=[6, 3, 1], sizes=[2, 3, 1])
    # Repeated while a call is waited for, and where a phase begins.
    assert list(dict.fromkeys(done for done, _ in seen)) == [0, 30, 60, 70, 80, 90, 100]
    assert {total for _, total in seen} == {100}


def test_a_phase_without_calls_is_over_when_it_begins() -> None:
    seen: Told = []
    told_by(seen, total=10, weights=[4, 4, 2], sizes=[0, 1, 0])
    assert list(dict.fromkeys(seen)) == [(0, 10), (4, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize("weights", [[1, 0], [0, 0]])
def test_a_phase_of_no_weight_adds_nothing(weights: list[int]) -> None:
    seen: Told = []
    told_by(seen, total=4, weights=weights, sizes=[2, 2])
    assert seen == sorted(seen)
    assert seen[-1] == (4, 4)


def test_phases_of_a_phase_share_what_it_has() -> None:
    seen: Told = []
    with threads(1, lambda done, total: seen.append((done, total)), 100) as each:
        first, last = split(each, 1, 3)
        for phase in (*split(first, 1, 4), last):
            list(phase(abs, [0]))
    assert list(dict.fromkeys(done for done, _ in seen)) == [0, 5, 25, 100]


def test_what_is_mapped_again_adds_nothing_and_takes_nothing_back() -> None:
    seen: Told = []
    with threads(1, lambda done, total: seen.append((done, total)), 10) as each:
        first, last = split(each, 1, 1)
        for phase in (first, first, last, last):
            list(phase(abs, range(5)))
    assert seen == sorted(seen)
    assert list(dict.fromkeys(seen)) == [(done, 10) for done in range(11)]


def test_all_is_done_at_the_end_however_little_there_was_to_do() -> None:
    for total, expected in ((0, [(0, 1), (1, 1)]), (7, [(0, 7), (7, 7)])):
        seen: Told = []
        told_by(seen, total=total, weights=[], sizes=[])
        assert seen == expected


def test_work_that_fails_is_not_told_to_be_done() -> None:
    seen: Told = []
    with (
        pytest.raises(ValueError, match="no"),
        threads(1, lambda done, total: seen.append((done, total)), 7),
    ):
        raise ValueError("no")
    assert seen == [(0, 7)]


def test_what_runs_here_is_counted_and_runs_in_the_thread_of_the_caller() -> None:
    seen: Told = []
    with threads(2, lambda done, total: seen.append((done, total)), 4) as each:
        found = list(here(each)(lambda _: threading.get_ident(), range(2)))
    assert set(found) == {threading.get_ident()}
    assert seen == [(0, 4), (0, 4), (2, 4), (4, 4)]


def test_the_built_in_map_can_be_split_too() -> None:
    assert [list(each(abs, [-1])) for each in (*split(map, 2, 1), here(map))] == [[1]] * 3


def test_what_a_callback_raises_in_a_block_that_it_cannot_stop_is_raised_at_the_end() -> None:
    called: list[int] = []

    def tell(done: int, total: int) -> None:
        called.append(done)
        if done == 1:
            raise ZeroDivisionError

    whole = Span(Meter(tell, 4))

    def block() -> None:
        with whole.meter.unstoppable():
            for done in (0, 1, 2):
                whole.tell(done, 4)
            called.append(-1)

    with pytest.raises(ZeroDivisionError):
        block()
    assert called == [0, 1, -1], "and it is not called again in the block"
    whole.tell(3, 4)
    assert called[-1] == 3


def test_an_error_of_a_block_comes_before_what_a_callback_raised_in_it() -> None:
    whole = Span(Meter(lambda done, total: 1 // 0, 4))

    def block() -> None:
        with whole.meter.unstoppable():
            whole.tell(1, 4)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        block()
