"""An update of the embedding and one of the head, which in many models are one tensor.

PEFT 0.21's unmerged model computes each end with its own LoRA, as it was trained. Its merge adds
both to the tensor that the two share.
"""

from collections.abc import Iterable, Iterator

from loratools.adapter import Note
from loratools.names.tied import find_tied_head

#: What a person should know of two such updates in a model that ties the ends.
MERGED_TWICE = (
    "PEFT's merge_and_unload adds both to the one tensor; use the adapter unmerged, or merge it "
    "with loratools, which stores the ends apart"
)


def notes_on_both_ends(targets: Iterable[str], is_tied: bool | None) -> Iterator[Note]:
    """What is to be said of updates of these weights; None where no base says whether it ties."""
    ends = find_tied_head(targets, {"tie_word_embeddings": True})
    if is_tied is False or ends is None or not ends.stored:
        return
    where = "the base ties the two" if is_tied else "where a base ties the two"
    yield Note(
        "problem" if is_tied else "info",
        f"{ends.embedding} and {ends.head} have an update each: {where}, {MERGED_TWICE}",
    )
