"""An extracted adapter merged back, block by block, and compared with the tuned model."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, final

from loratools.adapter import Adapter
from loratools.extracting.plan import ExtractPlan
from loratools.io.blocks import block_rows, read_block, rows_of, spans
from loratools.io.rounding import Rounding
from loratools.io.source import Source
from loratools.lowrank.truncation import TargetSpectrum
from loratools.merging.edit import edited_blocks
from loratools.merging.plan import MergeOptions, PlannedTensor
from loratools.merging.planner import plan_merge
from loratools.running.parallel import Map, single_threaded_torch

_SPAN_BLOCKS = 16
#: The largest relative error of one rounding.
_ROUNDING = {"F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}


@final
@dataclass(frozen=True)
class Check:
    """How far the merged adapter is from the tuned model.

    Attributes:
        distance: the Frobenius norm of merged - tuned, over all tensors.
        change: that of tuned - base.
        expected: the distance that the certificate states.
        rounding: how far the two may differ by the rounding of the factors, of the result to
            float32, and of the certificate.
    """

    distance: float
    change: float
    expected: float
    rounding: float

    @property
    def relative(self) -> float:
        """The distance relative to the change."""
        return self.distance / self.change if self.change else 0.0

    @property
    def agrees(self) -> bool:
        """Whether the certificate is right."""
        return abs(self.distance - self.expected) <= self.rounding

    @property
    def line(self) -> str:
        """In words."""
        verdict = "as certified" if self.agrees else f"but {self.expected:.6g} was certified"
        return (
            f"merged back: {self.distance:.6g} from the tuned model, {self.relative:.3g} of the "
            f"change, {verdict}"
        )

    def to_json(self) -> dict[str, Any]:
        """A part of the documented object of `svd-extract --json`."""
        return {
            "distance": self.distance,
            "relative": self.relative,
            "expected": self.expected,
            "rounding": self.rounding,
            "agrees": self.agrees,
        }


def check(
    plan: ExtractPlan,
    adapter: Adapter,
    spectra: Mapping[str, tuple[TargetSpectrum, int]],
    dtype: str,
    *,
    unsure: float,
    each: Map = map,
    tick: Callable[[], None],
) -> Check:
    """Merge in the way `merge` does, without writing, and measure the distance to the tuned model.

    `spectra` are those of the targets with their ranks, `dtype` that of the factors, and `unsure`
    is how far the energy that they lose can be from what they say.
    """
    merged = plan_merge(plan.pairing.base, [adapter], [1.0], MergeOptions(dtype="float32"))
    work = list(_work(plan, {**merged.tensors, **merged.of_base}))
    squares = each(partial(_distance, tick), work)
    untouched = [
        plan.changes[target].change for target in plan.changes if target not in {w[0] for w in work}
    ]
    truncations = [spectrum.truncation(rank) for spectrum, rank in spectra.values()]
    left_out = [left.norms.change for left in plan.left_out.values() if left.norms]
    expected = math.sqrt(math.fsum([*(each.lost for each in truncations), *left_out]))
    return Check(
        distance=math.sqrt(math.fsum([*squares, *untouched])),
        change=math.sqrt(math.fsum(norms.change for norms in plan.changes.values())),
        expected=expected,
        rounding=_rounding(plan, spectra, dtype) + (unsure / expected if unsure else 0.0),
    )


def _work(
    plan: ExtractPlan, tensors: Mapping[str, PlannedTensor]
) -> Iterator[tuple[str, PlannedTensor, Source, int, int]]:
    """Rows of merged tensors, with what they are to be compared with."""
    pairs = plan.pairing.pairs
    compared = {t: (pair.names[1], pair.after) for t, pair in pairs.items()}
    compared |= {name: (name, stored) for name, stored in plan.pairing.new.items()}
    for target, (name, after) in compared.items():
        planned = tensors.get(name)
        if planned is None and target in pairs and (twin := pairs[target].twin):
            planned = tensors[pairs[twin].names[1]]  # a head that is still tied
        if planned is None or not planned.is_changed or planned.shape != after.shape:
            continue
        step = _SPAN_BLOCKS * block_rows(after.shape)
        for begin, end in spans(0, rows_of(after.shape), step):
            yield target, planned, after, begin, end


def _distance(tick: Callable[[], None], work: tuple[str, PlannedTensor, Source, int, int]) -> float:
    _, planned, after, begin, end = work
    total = 0.0
    with single_threaded_torch():
        for first, block, _ in edited_blocks(planned, begin, end, Rounding()):
            tick()
            wanted = read_block(after, first, first + len(block))
            total += (block.double() - wanted).square().sum().item()
    return total


def _rounding(
    plan: ExtractPlan, spectra: Mapping[str, tuple[TargetSpectrum, int]], dtype: str
) -> float:
    """What rounding adds: u ‖up‖ ‖down‖₂ for either factor, and u ‖W‖ for the result."""
    squares = []
    for target, norms in plan.changes.items():
        bound = _ROUNDING["F32"] * (math.sqrt(norms.weight) + math.sqrt(norms.change))
        if target in spectra:
            values = spectra[target][0].values
            nuclear = float(values.sum()) * float(values[:1].sum())
            bound += 2 * _ROUNDING[dtype] * math.sqrt(nuclear)
        squares.append(bound**2)
    return math.sqrt(math.fsum(squares))
