"""Notes on adapters that update both the embedding and the head, which many models tie.

PEFT 0.21's unmerged model computes each of the two with its own LoRA, as it was trained. Its merge
adds both updates to the one tensor that they share.
"""

from collections.abc import Iterable, Iterator

from loratools.names.tied import find_tied_head
from loratools.parts import Note

#: The text about two such updates in a model that ties embedding and head.
MERGED_TWICE = (
    "PEFT's merge_and_unload adds both to the one tensor; use the adapter unmerged, or merge it "
    "with loratools, which stores the ends apart"
)


def notes_on_both_ends(targets: Iterable[str], is_tied: bool | None) -> Iterator[Note]:
    """Yield a note if both embedding and head are among the targets and may be tied.

    `is_tied` is None if there is no base that says whether it ties them.
    """
    ends = find_tied_head(targets, {"tie_word_embeddings": True})
    if is_tied is False or ends is None or not ends.stored:
        return
    where = "the base ties the two" if is_tied else "where a base ties the two"
    yield Note(
        "problem" if is_tied else "info",
        f"{ends.embedding} and {ends.head} have an update each: {where}, {MERGED_TWICE}",
    )
