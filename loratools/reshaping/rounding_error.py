"""What rounding to 16 bits does to updates whose factors were computed anew."""

import math
from functools import partial
from typing import TYPE_CHECKING

from loratools.adapter import Adapter
from loratools.deltas.lora import LoRA
from loratools.errors import NonFiniteError
from loratools.io.computed import Computed
from loratools.io.dtypes import BITS, to_torch, torch_name
from loratools.io.source import Source, Transposed
from loratools.running.parallel import Map

if TYPE_CHECKING:
    from torch import Tensor


def rounding_error(adapter: Adapter, each: Map = map) -> float | None:
    """The relative Frobenius error of all updates together, of which 16-bit factors were rounded.

    None where no such factor was computed: what is stored is then exact, or has 24 bits or more.

    Raises:
        NonFiniteError: the updates are too large for their energy to be a number.
    """
    loras = [u.delta.low_rank for u in adapter.updates.values() if u.delta.low_rank is not None]
    if not any(_is_rounded(source) for lora in loras for source in lora.sources):
        return None
    # What all scalings have in common does not change the ratio, and its square may be too large.
    largest = max(abs(lora.scaling.value) for lora in loras) or 1.0
    energies = list(each(partial(_energies, unit=largest), loras))
    if not all(math.isfinite(number) for pair in energies for number in pair):
        raise NonFiniteError(f"{adapter.where}: its updates are too large: they have no norm")
    total = math.fsum(energy for energy, _ in energies)
    return math.sqrt(math.fsum(lost for _, lost in energies) / total) if total else 0.0


def rounding_note(adapter: Adapter, error: float | None) -> tuple[str, ...]:
    """The error as a person reads it; nothing where there is none."""
    if not error:
        return ()
    found = (u.delta.low_rank for u in adapter.updates.values() if u.delta.low_rank is not None)
    sources = [source for lora in found for source in lora.sources if _is_rounded(source)]
    dtypes = ", ".join(dict.fromkeys(torch_name(source.dtype) for source in sources))
    return (f"rounding the factors to {dtypes} adds a relative error of {error:.2g}",)


def _is_rounded(source: Source) -> bool:
    inner = source.source if isinstance(source, Transposed) else source
    is_computed = isinstance(inner, Computed) and not inner.is_rearranged
    return is_computed and BITS[inner.dtype] == 16


def _energies(lora: LoRA, unit: float) -> tuple[float, float]:
    """‖dW‖² and the squared error of what is stored: of (U + E)(D + F), that is E (D + F) + U F.

    Both for a scaling in parts of `unit`.
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
    """Before and after it is rounded, both in float64."""
    if isinstance(source, Transposed):
        exact, stored = _exact_and_stored(source.source)
        return exact.T, stored.T
    if isinstance(source, Computed):
        exact = source.compute([inner.read() for inner in source.sources]).double()
        return exact, exact.to(to_torch(source.dtype)).double()
    values = source.read().double()
    return values, values
