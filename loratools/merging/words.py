"""What a merge does to each tensor, in a few words."""

from collections.abc import Iterator

from loratools.merging.plan import MergePlan, PlannedTensor


def actions(plan: MergePlan, tensor: PlannedTensor) -> Iterator[str]:
    """What is done to a tensor, step by step."""
    if tensor.base is None:
        yield "new"
    elif tensor.origin is not tensor.base:
        yield "replaced"
    elif not tensor.is_own and not tensor.changes:
        yield f"as {tensor.base.name}"
    for change in tensor.changes:
        factor = change.strength * change.block_weight
        strength = "" if factor == 1 else f" × {factor:g}"
        details = [d for d in (change.renaming, "transposed" if change.is_transposed else "") if d]
        yield f"{change.delta.kind}{strength}" + (f" ({', '.join(details)})" if details else "")
