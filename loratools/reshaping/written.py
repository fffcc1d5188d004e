"""The last lines of what a verb shows that writes an adapter."""

from collections.abc import Iterable, Iterator

from loratools.files.writing import Written
from loratools.showing.parts import Part, aside, human_size


def written_parts(written: Written | None, notes: Iterable[str]) -> Iterator[Part]:
    """The notes, and what was written, if anything was."""
    for note in notes:
        yield aside("Note", note)
    if written is not None:
        yield f"written: {written.path} ({human_size(written.nbytes)})"
