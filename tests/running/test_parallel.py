"""Threads give results in order, and are at rest when a failure is told."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from loratools.running.parallel import threads


def test_results_have_the_order_of_the_items() -> None:
    with threads(3) as each:
        assert list(each(lambda number: number * number, range(50))) == [n * n for n in range(50)]


def test_each_call_computes_with_one_thread() -> None:
    with threads(2) as each:
        assert set(each(lambda _: torch.get_num_threads(), range(4))) == {1}


def test_failure_is_told_when_nothing_runs_any_more() -> None:
    """What they write to may be closed, and its number given to another file."""
    running = threading.Event()
    finished = threading.Event()
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            running.wait(10)
            raise ValueError(number)
        running.set()
        threading.Event().wait(0.2)
        finished.set()

    with threads(2) as each:
        with pytest.raises(ValueError, match="0"):
            list(each(work, range(20)))
        assert finished.is_set()
        assert len(begun) < 20


def test_results_that_are_not_wanted_are_not_made() -> None:
    begun: list[int] = []
    with threads(1) as each:
        results = iter(each(begun.append, range(20)))
        next(results)
        results.close()  # type: ignore[attr-defined]
    assert len(begun) < 20


def test_very_many_items_are_handed_out_in_batches_and_given_in_order() -> None:
    handed = []
    submit = ThreadPoolExecutor.submit

    def counted(pool: ThreadPoolExecutor, *call: Any) -> Any:
        handed.append(call)
        return submit(pool, *call)

    with pytest.MonkeyPatch.context() as patch, threads(2) as each:
        patch.setattr(ThreadPoolExecutor, "submit", counted)
        assert list(each(lambda number: -number, range(20_000))) == [-n for n in range(20_000)]
    assert len(handed) < 600


def test_a_batch_ends_where_another_one_fails() -> None:
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise ValueError(number)
        threading.Event().wait(0.001)

    with threads(2) as each, pytest.raises(ValueError, match="0"):
        list(each(work, range(400_000)))
    assert len(begun) < 700  # a batch is larger
