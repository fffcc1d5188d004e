"""Measures the size and effective rank of every low-rank update, and its size beside its weight."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, final

from loratools.adapter import Adapter
from loratools.deltas import Delta
from loratools.deltas.lora import LoRA
from loratools.deltas.placed import alone
from loratools.errors import NonFiniteError
from loratools.io.source import Source
from loratools.io.values import is_finite
from loratools.names.grouping import pattern_of
from loratools.reshaping.factors import sum_of

if TYPE_CHECKING:
    from loratools.lowrank.spectrum import Spectrum
    from loratools.merging.plan import MergePlan
    from loratools.running.share import Map


@final
@dataclass(frozen=True)
class TargetSpectrum:
    """The spectrum of one update; None as `spectrum` if a value is not finite or overflows.

    `relative` is the Frobenius norm of the update divided by that of the base's weight; None
    without a base.
    """

    target: str
    spectrum: "Spectrum | None"
    relative: float | None = None

    @property
    def is_zero(self) -> bool:
        """Whether the product of the factors is zero."""
        return self.spectrum is not None and self.spectrum.frobenius == 0


def measure_spectra(
    adapter: Adapter, weights: Mapping[str, float] | None = None, each: "Map" = map
) -> Iterator[TargetSpectrum]:
    """Yield the spectrum of every low-rank update, computed from its factors.

    For kinds that hold a LoRA besides other parts, as DoRA does, it is the spectrum of the LoRA.
    With the norms of weights by target, updates are also compared with what they change.
    """
    norms = weights or {}
    deltas = {t: u.delta for t, u in adapter.updates.items() if u.delta.factored() is not None}
    for target, spectrum in zip(deltas, each(_spectrum, deltas.values()), strict=True):
        norm = norms.get(target)
        relative = spectrum.frobenius / norm if spectrum and norm else math.inf
        yield TargetSpectrum(target, spectrum, relative if math.isfinite(relative) else None)


def mean_spectra(spectra: Sequence[TargetSpectrum]) -> tuple[TargetSpectrum, ...]:
    """The means over targets whose names differ only in numbers, with the pattern as the target."""
    groups: dict[str, list[TargetSpectrum]] = {}
    for row in spectra:
        groups.setdefault(pattern_of(row.target), []).append(row)
    return tuple(_mean(pattern, rows) for pattern, rows in groups.items())


def _mean(pattern: str, rows: Sequence[TargetSpectrum]) -> TargetSpectrum:
    finite = [row.spectrum for row in rows if row.spectrum is not None]
    relative = [row.relative for row in rows if row.relative is not None]
    if len(finite) < len(rows):
        return TargetSpectrum(pattern, None)
    means = {f.name: fmean(getattr(s, f.name) for s in finite) for f in fields(finite[0])}
    return TargetSpectrum(
        pattern, replace(finite[0], **means), fmean(relative) if relative else None
    )


def _spectrum(delta: Delta) -> "Spectrum | None":
    from loratools.lowrank.spectrum import spectrum_of

    lora = delta.factored()
    if lora is None or not all(is_finite(source.read()) for source in _beside(lora, delta)):
        return None
    try:
        return spectrum_of(sum_of([(1.0, lora)]).values(), lora.rank)
    except NonFiniteError:
        return None


def _beside(lora: LoRA, delta: Delta) -> Iterator[Source]:
    """The tensors that a change is made of besides its factors."""
    factors = {id(source) for source in lora.sources}
    yield from (source for source in delta.sources if id(source) not in factors)


def weight_norms(plan: "MergePlan | None", each: "Map" = map) -> Mapping[str, float]:
    """The Frobenius norm of the rows that each target's update changes; none without a plan."""
    from loratools.io.blocks import stored_norm

    rows: dict[str, dict[Source, None]] = {}
    for tensor in plan.changed if plan is not None else ():
        for change in tensor.changes:
            # A fused weight has other rows too, and a tied head those of its embedding again.
            _, own = alone(change.delta, tensor.origin)
            rows.setdefault(change.target, {})[own] = None
    norms = iter(each(stored_norm, [source for own in rows.values() for source in own]))
    return {target: math.hypot(*islice(norms, len(own))) for target, own in rows.items()}
