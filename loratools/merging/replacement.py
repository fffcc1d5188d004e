"""The rules for tensors of the base that an adapter replaces as a whole."""

from loratools.adapter import Adapter
from loratools.errors import FormatError, UnsupportedError, shorten
from loratools.io.dtypes import FACTORS, FLOATS
from loratools.io.source import Source
from loratools.io.values import same_bytes
from loratools.merging.plan import PlannedTensor
from loratools.merging.weights import Weight
from loratools.names.tied import is_embedding
from loratools.parts import Replacement
from loratools.typed import one_of, worded


def check_replacement(
    adapter: Adapter, target: str, planned: PlannedTensor, replacement: Replacement
) -> str | None:
    """Check a tensor that is to replace a planned one; return a note if the user should know of it.

    Raises:
        FormatError: the tensor has another dtype, or an earlier adapter changed the planned one.
    """
    base, source = planned.base, replacement.source
    is_rounded = source.dtype in FACTORS and planned.dtype in FLOATS
    if source.dtype != planned.dtype and not is_rounded:
        raise FormatError(
            f"{adapter.where}: {shorten(target)} is {source.dtype}, and {planned.dtype} in the "
            f"base",
            tensor=target,
        )
    is_replaced = planned.origin is not base and planned.origin is not source
    if planned.changes or (is_replaced and not same_bytes(planned.origin, source)):
        raise FormatError(
            f"{adapter.where}: {shorten(target)} would replace what an adapter before it "
            f"has changed",
            tensor=target,
        )
    if is_replaced:
        return None
    if base is None:
        return f"{planned.name}: new, the base has no such tensor"
    if base.shape == source.shape and not replacement.is_trained:
        return (
            f"{planned.name}: differs from the copy of the base's tensor that is stored in "
            f"{adapter.where}; the copy takes its place"
        )
    if base.shape == source.shape or is_embedding(planned.name):
        return None
    return f"{planned.name}: the shape changes from {list(base.shape)} to {list(source.shape)}"


def check_weight(weight: Weight, target: str, where: str) -> None:
    """Refuse any weight but 1 for a tensor that replaces the base's, and say what works.

    Raises:
        UnsupportedError: the weight is another one.
    """
    given = weight.of(target)
    if given == 1:
        return
    message = (
        f"{where}: {shorten(target)} replaces the base's tensor whole, which has no weight of "
        f"{given:g}; leave it out with {one_of('skip', target)}, or "
    )
    if given <= 0 or given != weight.whole:
        raise UnsupportedError(f"{message}use weight 1 for it")
    rescaling = worded(
        f"loratools rescale --strength {given:g} --keep-replaced",
        f"rescale(rescaling=Rescaling(strength={given:g}, keep_replaced=True))",
    )
    raise UnsupportedError(
        f"{message}merge with weight 1 what `{rescaling}` makes of the adapter: all its other "
        f"updates have that weight"
    )


def is_the_base(source: Source, base: Source) -> bool:
    """Whether a tensor is the base's: in its bytes, or once it is rounded to the base's dtype."""
    if source.dtype == base.dtype:
        return same_bytes(source, base)
    from loratools.io.rounding import rounds_to

    return rounds_to(source, base)
