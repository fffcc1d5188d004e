"""Merges an extracted adapter back, block by block, and compares it with the tuned model."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, final

from loratools.adapter import Adapter
from loratools.extracting.pairing import Pair
from loratools.extracting.plan import ExtractPlan
from loratools.io.blocks import block_rows, read_block, rows_of, spans
from loratools.io.picked import Picked, stored_axes
from loratools.io.rounding import Rounding
from loratools.io.source import Source, forget_rows
from loratools.lowrank.truncation import TargetSpectrum
from loratools.merging.edit import edited_blocks
from loratools.merging.plan import MergeOptions, PlannedTensor
from loratools.merging.planner import plan_merge
from loratools.running.parallel import single_threaded_torch
from loratools.running.share import Map

_SPAN_BLOCKS = 16
#: The largest relative error of rounding one number, by dtype.
_ROUNDING = {"F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}


@final
@dataclass(frozen=True)
class Check:
    """The distance of the merged adapter from the tuned model.

    Attributes:
        distance: the Frobenius norm of merged - tuned, over all tensors.
        change: the Frobenius norm of tuned - base, over all tensors.
        expected: the distance that the certificate states.
        rounding: a bound of the difference between the two distances that comes from rounding the
            factors, from rounding the result to float32, and from the certificate's own error.
    """

    distance: float
    change: float
    expected: float
    rounding: float

    @property
    def relative(self) -> float:
        """The distance divided by the norm of the whole change."""
        return self.distance / self.change if self.change else 0.0

    @property
    def agrees(self) -> bool:
        """Whether the measured distance is the certified one, up to rounding."""
        return abs(self.distance - self.expected) <= self.rounding

    @property
    def line(self) -> str:
        """The result of the check in one line of words."""
        verdict = "as certified" if self.agrees else f"but {self.expected:.6g} was certified"
        return (
            f"merged back: {self.distance:.6g} from the tuned model, {self.relative:.3g} of the "
            f"change, {verdict}"
        )

    def to_json(self) -> dict[str, Any]:
        """The check as it is documented for `svd-extract --json`."""
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
    """Merge as `merge` does, but without writing, and measure the distance to the tuned model.

    `spectra` are the spectra of the targets with their chosen ranks, `dtype` is the dtype of the
    factors, and `unsure` the largest error of the lost energy that the spectra state.
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
        # The root of an energy that is off by `unsure` is off by at most unsure / root.
        rounding=_rounding(plan, spectra, dtype) + (unsure / expected if unsure else 0.0),
    )


_Work = tuple[str, PlannedTensor, Source, int, int, int]


def _work(plan: ExtractPlan, tensors: Mapping[str, PlannedTensor]) -> Iterator[_Work]:
    """Yield spans of rows of the merged tensors that changed, each with the tuned model's tensor.

    A unit of work is the target, the merged tensor, the tuned one, the first and last merged row,
    and how many rows further on in the merged tensor they are than in the tuned one.
    """
    pairs = plan.pairing.pairs
    compared = {t: (pair.names[1], pair.after) for t, pair in pairs.items()}
    compared |= {name: (name, stored) for name, stored in plan.pairing.new.items()}
    for target, (name, after) in compared.items():
        planned = tensors.get(name)
        if planned is None and target in pairs and (twin := pairs[target].twin):
            planned = tensors[pairs[twin].names[1]]  # the head is still tied to its embedding
        if planned is None or not planned.is_changed:
            continue
        for source, own, first, last in _places(pairs.get(target), after, planned.shape):
            step = _SPAN_BLOCKS * block_rows(planned.shape)
            for begin, end in spans(first, last, step):
                yield target, planned, source, begin, end, first - own


def _places(
    pair: Pair | None, after: Source, merged: tuple[int, ...]
) -> Iterator[tuple[Source, int, int, int]]:
    """Yield which rows of a merged tensor a target's are, and where they begin in the tuned one."""
    if pair is None or not isinstance(pair.before, Picked):
        if merged == after.shape:
            yield after, 0, 0, rows_of(merged)
    elif pair.before.shape == after.shape:
        source = stored_axes(after) if pair.before.is_transposed else after
        for own, first, last in pair.before.places():
            yield source, own, first, last


def _distance(tick: Callable[[], None], work: _Work) -> float:
    """The squared distance between the merged and the tuned rows of one unit of work."""
    _, planned, after, begin, end, further = work
    total = 0.0
    with single_threaded_torch():
        for first, block, _ in edited_blocks(planned, begin, end, Rounding()):
            tick()
            wanted = read_block(after, first - further, first - further + len(block))
            total += (block.double() - wanted).square().sum().item()
    forget_rows(planned.origin, begin, end)
    forget_rows(after, begin - further, end - further)
    return total


def _rounding(
    plan: ExtractPlan, spectra: Mapping[str, tuple[TargetSpectrum, int]], dtype: str
) -> float:
    """A bound of the error that rounding adds to the merged model, as a Frobenius norm.

    With u the largest relative error of one rounding, it is u ‖up‖ ‖down‖₂ for each factor (the
    Frobenius norm of one and the spectral norm of the other), and u ‖W‖ for the result.
    """
    squares = []
    for target, norms in plan.changes.items():
        bound = _ROUNDING["F32"] * (math.sqrt(norms.weight) + math.sqrt(norms.change))
        if target in spectra:
            values = spectra[target][0].values
            nuclear = float(values.sum()) * float(values[:1].sum())
            bound += 2 * _ROUNDING[dtype] * math.sqrt(nuclear)
        squares.append(bound**2)
    return math.sqrt(math.fsum(squares))
