"""A device for tests on machines without a GPU: the processor, with a memory that seems separate.

Operations on the device compute what the processor computes. But as with CUDA, an operation with
operands both on the device and in memory fails, and so does reading the values of a tensor on the
device as an array in memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

#: Its name, which every build of torch knows, and where nothing could be computed.
APART = torch.device("meta")
#: What may read from one place and write to the other, or take indices from memory.
_CROSSING = ("aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put_")


@contextmanager
def device_apart() -> Iterator[torch.device]:
    """Yield the device, which works in this thread until the end of the block."""
    with _Factories():  # type: ignore[no-untyped-call]  # torch's constructor
        yield APART


class FewerBits(TorchDispatchMode):
    """Multiply float32 matrices in bfloat16, as torch may do on a GPU if it is so configured."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if operation._schema.name in ("aten::mm", "aten::addmm_"):
            *sums, one, other = args
            if one.dtype == torch.float32:
                args = (*sums, one.bfloat16().float(), other.bfloat16().float())
        return operation(*args, **(kwargs or {}))


class _Apart(Tensor):
    """A tensor on the device; `held` is the tensor in memory with its values."""

    held: Tensor

    def __new__(cls, held: Tensor) -> "_Apart":
        made: _Apart = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=APART,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch gives it a function's type
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(operation, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Runs operations without a tensor on the device as well, because they may make one there."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(operation, args, kwargs or {})


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    apart = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, _Apart)}
    here = [tensor for tensor in tensors if not isinstance(tensor, _Apart)]
    name = operation._schema.name
    if any(tensor.device == APART for tensor in here):
        raise RuntimeError(f"{name}: an operand that torch itself has made there, and is empty")
    if apart and any(tensor.dim() for tensor in here) and name not in _CROSSING:
        raise RuntimeError(f"{name}: operands on the device and in memory")
    goes_there = bool(apart)
    if kwargs.get("device") is not None:
        goes_there = torch.device(kwargs["device"]) == APART
        kwargs = {**kwargs, "device": "cpu"}
    held_args, held_kwargs = tree_map_only(_Apart, lambda tensor: tensor.held, (args, kwargs))

    def placed(found: Tensor) -> Tensor:
        if not goes_there or any(found is tensor for tensor in here):
            return found
        return apart[id(found)] if id(found) in apart else _Apart(found)

    return tree_map_only(Tensor, placed, operation(*held_args, **held_kwargs))
