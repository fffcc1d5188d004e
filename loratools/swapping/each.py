"""Work on tensors one by one on threads, which is told by their bytes."""

from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import TypeVar

from loratools.io.source import Stored
from loratools.running.share import Span
from loratools.running.steps import TICK_SECONDS, workers

_T = TypeVar("_T")


def on_each(
    function: Callable[[Stored], _T], tensors: Sequence[Stored], jobs: int | None, span: Span
) -> list[_T]:
    """The results of a function that needs no torch, in the order of the tensors.

    `span` is told the bytes of the tensors that are done, at least ten times a second. If a call
    fails, or a callback of progress raises, no further call begins, and the others are waited for.
    """
    total, done = sum(tensor.nbytes for tensor in tensors), 0
    found = []
    with workers(None, jobs) as pool:
        futures = [pool.submit(function, tensor) for tensor in tensors]
        try:
            span.tell(0, total)
            for tensor, future in zip(tensors, futures, strict=True):
                while not wait([future], TICK_SECONDS).done:
                    span.meter.again()
                found.append(future.result())
                done += tensor.nbytes
                span.tell(done, total)
        finally:
            for future in futures:
                future.cancel()
    return found
