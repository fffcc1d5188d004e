"""The phases of a swap as parts of its work, by the bytes that each reads and writes."""

from typing import NamedTuple, final

from loratools.running.share import Span

#: How long the steps of a phase take beside each other, and those of other phases, for each byte;
#: measured on adapters of rank 16 and 64 for matrices of 4096 × 4096.
#: To hash the original tensors, and those in the model.
CHECKING = (1, 1)
#: To copy original tensors, to hash them in the model, and to hash the copy.
KEEPING = (1, 1, 1)
#: To compute new tensors and write them, and to hash what was written.
MAKING = (3, 1)
#: To copy tensors into the model, and to hash what was written.
WRITING = (1, 1)
#: To hash what an interrupted swap is to write, and to write it.
COMPLETING = (1, sum(WRITING))


@final
class Phases(NamedTuple):
    """The parts of a swap's work, in their order."""

    checking: Span
    keeping: Span
    making: Span
    writing: Span


def phases(span: Span, *, checked: int, kept: int, made: int, written: int) -> Phases:
    """The phases of a swap with these numbers of bytes."""
    costs = (CHECKING, checked), (KEEPING, kept), (MAKING, made), (WRITING, written)
    return Phases(*span.split(*(sum(steps) * nbytes for steps, nbytes in costs)))
