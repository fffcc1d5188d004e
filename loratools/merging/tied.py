"""A tied embedding and head in a planned merge, which stay one tensor only while they are equal."""

from collections.abc import Mapping
from dataclasses import replace

from loratools.errors import UnsupportedError
from loratools.io.values import same_bytes
from loratools.merging.plan import MergePlan, PlannedTensor
from loratools.names.tied import TiedHead
from loratools.typed import one_of


def with_tied_ends(plan: MergePlan, tied: TiedHead) -> MergePlan:
    """The plan in which embedding and head are one tensor if they are still equal, else two.

    This follows what was trained: a LoRA on one of them does not act on the other, an embedding
    that grew before training grew in both, and single trained rows and shared updates act in
    both.

    Raises:
        UnsupportedError: they differ, and this kind of model cannot store them apart.
    """
    ends = (plan.tensors.get(tied.embedding), plan.tensors.get(tied.head))
    if not any(end is not None and end.is_changed for end in ends):
        return plan
    tensors = dict(_with_shared_size(plan.tensors, tied))
    embedding, head = tensors[tied.embedding], _head(tensors, tied)
    if embedding.changes == head.changes and same_bytes(embedding.origin, head.origin):
        if tied.stored:
            tensors[tied.head] = head
        else:
            tensors.pop(tied.head, None)
        return replace(plan, tensors=tensors)
    if not tied.separable:
        raise UnsupportedError(
            f"{plan.base.where}: {tied.embedding} is tied to more than a head in this kind of "
            f"model, which cannot store them apart",
            hint=f"leave it out with {one_of('skip', tied.embedding)}",
        )
    tensors[tied.head] = head
    note = (
        f"{tied.head}: stored by itself from now on (tie_word_embeddings becomes false), "
        f"because it and {tied.embedding} now differ"
    )
    return replace(plan, tensors=tensors, untied=tied, notes=(*plan.notes, note))


def _with_shared_size(
    tensors: Mapping[str, PlannedTensor], tied: TiedHead
) -> Mapping[str, PlannedTensor]:
    """Give the size of an embedding or head that grew before training to the other one too."""
    for one, other in ((tied.embedding, tied.head), (tied.head, tied.embedding)):
        grown, follower = tensors.get(one), tensors.get(other)
        if grown is None or follower is None or grown.is_trained:
            continue
        if grown.origin is not grown.base and follower.origin is follower.base:
            tensors = {**tensors, other: replace(follower, origin=grown.origin)}
    return tensors


def _head(tensors: Mapping[str, PlannedTensor], tied: TiedHead) -> PlannedTensor:
    """The head as a tensor of its own, with the embedding's changes that were trained on it too.

    These are shared updates, and single rows if the head has none of its own.
    """
    embedding = tensors[tied.embedding]
    head = tensors.get(tied.head) or _untouched_head(tied, embedding)
    has_rows = any(change.rows is not None for change in head.changes)
    both = (c for c in embedding.changes if c.is_shared or (c.rows is not None and not has_rows))
    return replace(head, changes=(*both, *head.changes))


def _untouched_head(tied: TiedHead, embedding: PlannedTensor) -> PlannedTensor:
    """The head that no adapter changes: the embedding without what was trained there."""
    origin = embedding.base if embedding.is_trained else embedding.origin
    assert origin is not None, tied.embedding
    return PlannedTensor(tied.head, embedding.dtype, embedding.base, origin)
