"""Work in another thread: what it notes is told to who waits, and it ends when nobody does."""

import time
from threading import Event

import pytest

from loratools.running.work import (
    _PATIENCE_SECONDS,
    GivenUpError,
    Work,
    current_work,
    working,
)


def test_what_is_done_never_becomes_less_and_is_never_more_than_the_size() -> None:
    """As where a file is sent again after the connection broke."""
    seen = []
    with working({"a": 10, "b": 5}, lambda done, total: seen.append((done, total))) as work:
        for name, done in (("a", 7), ("a", 3), ("c", 100), ("b", 9)):
            work.note(name, done)
            work.tell()
        work.end()
    assert seen == [(0, 15), (7, 15), (7, 15), (7, 15), (12, 15), (15, 15)]


def test_progress_is_told_while_a_call_is_waited_for() -> None:
    told, seen = Event(), []

    def call(work: Work) -> bool:
        work.note("a", 1)
        return told.wait(10)

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if done:
            told.set()

    with working({"a": 2}, progress) as work:
        assert work.result(work.begin(call, work))
    assert (1, 2) in seen


def test_what_the_caller_raises_ends_the_calls_that_have_begun_and_no_other_begins() -> None:
    ended = Event()
    begun: list[int] = []

    def call(work: Work) -> None:
        try:
            while not ended.wait(0.001):
                work.note("a", 1)
        except GivenUpError:
            ended.set()
            raise

    def fail() -> None:
        with working({"a": 2}, None) as work:
            work.begin(call, work)
            work.begin(begun.append, 1)
            raise EOFError

    start = time.monotonic()
    with pytest.raises(EOFError):
        fail()
    assert time.monotonic() - start < _PATIENCE_SECONDS, "calls that never begin are not waited for"
    assert ended.is_set()
    assert not begun


def test_an_error_of_a_call_is_raised_where_its_result_is_waited_for() -> None:
    with working({}, None) as work, pytest.raises(ZeroDivisionError):
        work.result(work.begin(divmod, 1, 0))


def test_calls_are_made_by_as_many_threads_as_are_asked_for() -> None:
    first, second = Event(), Event()

    def meet(mine: Event, other: Event) -> bool:
        mine.set()
        return other.wait(10)

    with working({}, None, threads=2) as work:
        futures = [work.begin(meet, first, second), work.begin(meet, second, first)]
        assert all(work.result(future) for future in futures)


def test_a_call_that_waits_for_others_is_woken_up_and_its_error_is_that_it_was_given_up() -> None:
    waits, woken = Event(), Event()
    raised: list[type[BaseException]] = []

    def call() -> None:
        work = current_work()
        assert work is not None
        try:
            with work.woken(woken.set):
                waits.set()
                assert woken.wait(10)
                raise ConnectionError
        except BaseException as error:
            raised.append(type(error))
            raise

    def fail() -> None:
        with working({}, None) as work:
            work.begin(call)
            assert waits.wait(10)
            raise EOFError

    with pytest.raises(EOFError):
        fail()
    assert raised == [GivenUpError]
    assert current_work() is None


def test_work_that_was_given_up_waits_for_nothing() -> None:
    with working({}, None) as work:
        pass
    with pytest.raises(GivenUpError), work.woken(lambda: None):
        pytest.fail("it waits")
