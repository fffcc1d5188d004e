"""What an adapter says was trained and does not store, as the base shows it."""

from collections.abc import Callable, Iterator, Mapping

from loratools.adapter import Announced
from loratools.errors import listing
from loratools.io.dtypes import FLOATS
from loratools.operations.merge import PlannedTensor

#: The tensors of a plan to which the adapter was added.
Tensors = Mapping[str, PlannedTensor]


def lost_biases(
    announced: Announced, tensors: Tensors, number: int, is_wanted: Callable[[str], bool]
) -> str | None:
    """What is wrong where the base has biases that the adapter of this number has lost."""
    if announced.biases is None:
        return None
    biases = [tensor.name for tensor in _untouched(tensors, number) if _is_bias(tensor)]
    if announced.biases == "lora_only":
        owners = {name: name.removesuffix(".bias") for name in biases if name.endswith(".bias")}
        biases = [n for n, o in owners.items() if _is_updated(tensors.get(f"{o}.weight"), number)]
    elif any(_is_bias(tensor) and tensor.origin is not tensor.base for tensor in tensors.values()):
        biases = []  # svd-extract stores those of all biases that have changed
    biases = [name for name in biases if is_wanted(name)]
    if not biases:
        return None
    return (
        f"bias is {announced.biases!r}, and the trained {listing(biases, 3)} are not stored "
        f"(PEFT 0.7 to 0.20 lost those of 'lora_only'); --config with another bias goes "
        f"without them"
    )


def without_updates(
    announced: Announced, tensors: Tensors, number: int, is_wanted: Callable[[str], bool]
) -> Iterator[str]:
    """What is odd where the base has modules that should have updates.

    A model in memory may have other names than its file, so that nothing need be missing.
    """
    if not announced.modules:
        return
    weights = [t.name for t in _untouched(tensors, number) if len(t.shape) > 1]
    for module in announced.modules:
        names = [name for name in weights if f".{name}".endswith(f".{module}.weight")]
        names = [name for name in names if is_wanted(name)]
        if names:
            yield f"target_modules lists {module!r}, and no update of {listing(names, 3)} is stored"


def _untouched(tensors: Tensors, number: int) -> Iterator[PlannedTensor]:
    for tensor in tensors.values():
        is_own = tensor.origin is tensor.base and tensor.dtype in FLOATS
        if is_own and not _is_updated(tensor, number):
            yield tensor


def _is_updated(tensor: PlannedTensor | None, number: int) -> bool:
    return tensor is not None and any(change.adapter == number for change in tensor.changes)


def _is_bias(tensor: PlannedTensor) -> bool:
    return tensor.name.endswith("bias") and len(tensor.shape) == 1
