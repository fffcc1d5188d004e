"""What an adapter says was trained and does not store, as the base shows it."""

from collections.abc import Callable, Iterator, Mapping

from loratools.adapter import Announced
from loratools.errors import listing
from loratools.io.dtypes import FLOATS
from loratools.operations.merge import PlannedTensor


def missing_parts(
    announced: Announced,
    tensors: Mapping[str, PlannedTensor],
    number: int,
    is_wanted: Callable[[str], bool],
) -> Iterator[str]:
    """What is wrong, in words; nothing where the base has no such tensors.

    `tensors` are those of a plan to which the adapter of this number was added; parts of those that
    are not wanted are not missed.
    """
    untouched = [
        tensor
        for tensor in tensors.values()
        if tensor.origin is tensor.base
        and tensor.dtype in FLOATS
        and not _is_updated(tensor, number)
    ]
    biases = [tensor.name for tensor in untouched if _is_bias(tensor)]
    if announced.biases == "lora_only":
        owners = {name: name.removesuffix(".bias") for name in biases if name.endswith(".bias")}
        biases = [n for n, o in owners.items() if _is_updated(tensors.get(f"{o}.weight"), number)]
    elif any(_is_bias(tensor) and tensor.origin is not tensor.base for tensor in tensors.values()):
        biases = []  # svd-extract stores those of all biases that have changed
    biases = [name for name in biases if announced.biases and is_wanted(name)]
    if biases:
        yield (
            f"bias is {announced.biases!r}, and the trained {listing(biases, 3)} are not stored "
            f"(PEFT 0.7 to 0.20 lost those of 'lora_only'); --config with another bias goes "
            f"without them"
        )
    weights = [tensor.name for tensor in untouched if len(tensor.shape) > 1]
    for module in announced.modules:
        names = [name for name in weights if f".{name}".endswith(f".{module}.weight")]
        names = [name for name in names if is_wanted(name)]
        if names:
            yield (
                f"target_modules lists {module!r}, and no update of {listing(names, 3)} is stored; "
                f"--config with other target_modules goes without it"
            )


def _is_updated(tensor: PlannedTensor | None, number: int) -> bool:
    return tensor is not None and any(change.adapter == number for change in tensor.changes)


def _is_bias(tensor: PlannedTensor) -> bool:
    return tensor.name.endswith("bias") and len(tensor.shape) == 1
