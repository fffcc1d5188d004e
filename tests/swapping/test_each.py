"""What a swap does with each tensor is told by bytes, and can be stopped."""

import threading

import pytest

from loratools.files.checkpoints import open_checkpoint
from loratools.io.source import Stored
from loratools.running.share import Meter, Span
from loratools.swapping.each import on_each
from tests.e2e.commands import SINGLE

TENSORS = list(open_checkpoint(SINGLE).tensors.values())
TOTAL = sum(tensor.nbytes for tensor in TENSORS)


def test_results_have_the_order_of_the_tensors_and_their_bytes_are_told() -> None:
    told: list[int] = []
    span = Span(Meter(lambda done, total: told.append(done), TOTAL))
    assert on_each(lambda tensor: tensor.name, TENSORS, 4, span) == [t.name for t in TENSORS]
    ends = [sum(tensor.nbytes for tensor in TENSORS[:n]) for n in range(len(TENSORS) + 1)]
    assert list(dict.fromkeys(told)) == ends


def test_a_callback_is_asked_while_a_long_call_is_waited_for() -> None:
    ended, calls = threading.Event(), 0

    def tell(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            ended.set()

    span = Span(Meter(tell, TOTAL))
    assert on_each(lambda tensor: ended.wait(60), TENSORS[:1], 1, span) == [True]


def test_no_call_begins_after_a_callback_has_raised() -> None:
    begun, stopped = [], threading.Event()

    def call(tensor: Stored) -> None:
        begun.append(tensor)
        stopped.wait(60)

    def tell(done: int, total: int) -> None:
        if begun:
            stopped.set()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        on_each(call, TENSORS, 1, Span(Meter(tell, TOTAL)))
    assert len(begun) < len(TENSORS)
