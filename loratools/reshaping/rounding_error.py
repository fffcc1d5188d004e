"""The error that rounding newly computed factors to 16 bits adds to updates."""

import math
from functools import partial
from typing import TYPE_CHECKING

from loratools.adapter import Adapter
from loratools.deltas.lora import LoRA
from loratools.errors import NonFiniteError
from loratools.io.computed import Computed
from loratools.io.dtypes import BITS, to_torch, torch_name
from loratools.io.source import Source, Transposed
from loratools.running.share import Map

if TYPE_CHECKING:
    from torch import Tensor


def rounding_error(adapter: Adapter, each: Map = map) -> float | None:
    """The relative Frobenius error, over all updates, of rounding computed factors to 16 bits.

    None if no such factor was computed: stored factors are then exact, or have 24 bits or more.

    Raises:
        NonFiniteError: the energy of the updates overflows float64.
    """
    if not has_rounded(adapter):
        return None
    loras = _loras(adapter)
    # A common factor of all scalings cancels in the ratio; its square might overflow.
    largest = max(abs(lora.scaling.value) for lora in loras) or 1.0
    energies = list(each(partial(_energies, unit=largest), loras))
    if not all(math.isfinite(number) for pair in energies for number in pair):
        raise NonFiniteError(f"{adapter.where}: its updates are too large: they have no norm")
    total = math.fsum(energy for energy, _ in energies)
    return math.sqrt(math.fsum(lost for _, lost in energies) / total) if total else 0.0


def has_rounded(adapter: Adapter) -> bool:
    """Whether a factor was computed that is stored in 16 bits."""
    return any(_is_rounded(source) for lora in _loras(adapter) for source in lora.sources)


def rounding_note(adapter: Adapter, error: float | None) -> tuple[str, ...]:
    """A note on the error for people to read; none if there is no error."""
    if not error:
        return ()
    sources = [s for lora in _loras(adapter) for s in lora.sources if _is_rounded(s)]
    dtypes = ", ".join(dict.fromkeys(torch_name(source.dtype) for source in sources))
    return (f"rounding the factors to {dtypes} adds a relative error of {error:.2g}",)


def _loras(adapter: Adapter) -> list[LoRA]:
    return [u.delta.low_rank for u in adapter.updates.values() if u.delta.low_rank is not None]


def _is_rounded(source: Source) -> bool:
    inner = source.source if isinstance(source, Transposed) else source
    is_computed = isinstance(inner, Computed) and not inner.is_rearranged
    return is_computed and BITS[inner.dtype] == 16


def _energies(lora: LoRA, unit: float) -> tuple[float, float]:
    """The energy ‖dW‖² and the squared error of the stored factors; scalings count in `unit`s.

    With U + E and D + F stored in place of U and D, the error is E (D + F) + U F. It is computed by
    Gram matrices of the factors [E, U] and [D + F; F], without forming a matrix of the weight.
    """
    import torch

    up, stored_up = _exact_and_stored(lora.up)
    down, stored_down = _exact_and_stored(lora.down)
    squared = (lora.scaling.value / unit) ** 2
    lefts = torch.cat([stored_up - up, up], dim=1)
    rights = torch.cat([stored_down, stored_down - down])
    entries = (lefts.T @ lefts) * (rights @ rights.T)
    energy = ((up.T @ up) * (down @ down.T)).sum().item()
    return squared * energy, squared * max(0.0, entries.sum().item())


def _exact_and_stored(source: Source) -> "tuple[Tensor, Tensor]":
    """The values of a source before and after they are rounded for storage, both in float64."""
    if isinstance(source, Transposed):
        exact, stored = _exact_and_stored(source.source)
        return exact.T, stored.T
    if isinstance(source, Computed):
        exact = source.compute([inner.read() for inner in source.sources]).double()
        return exact, exact.to(to_torch(source.dtype)).double()
    values = source.read().double()
    return values, values
