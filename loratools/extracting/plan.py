"""The plan of an extraction: what an adapter stores for every tensor that fine-tuning changed.

Matrices become products of low rank. What has no place in a LoRA is stored whole, as PEFT loads it:
biases by `bias: "all"`, other modules by `modules_to_save`, tables of another size by themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar, final

from loratools.adapter import Replacement
from loratools.errors import LoratoolsError, check_finite
from loratools.extracting.pairing import Pair, Pairing
from loratools.io.dtypes import from_torch_name

if TYPE_CHECKING:
    from loratools.extracting.difference import Norms

_V = TypeVar("_V")


@final
@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """What is extracted, and how it is stored.

    Attributes:
        only: globs; only tensors that match one are looked at.
        skip: globs; tensors that match one are left as the base has them.
        full: globs; modules with a tensor that matches one are stored whole if they changed.
        keep_residual: store what has no place in a LoRA; otherwise leave it out.
        min_change: tensors whose relative change is below this are left out; None for what
            rounding alone can make, by the dtypes of the two files.
        dtype: of the factors, `float32`, `bfloat16` or `float16`.
        device: where differences are factored; the CPU if None. Another one gives other last bits.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    keep_residual: bool = True
    min_change: float | None = None
    dtype: str = "float32"
    device: str | None = None

    def __post_init__(self) -> None:
        """Refuse a change that is no number."""
        check_finite("min_change", self.min_change or 0.0)

    @property
    def stored_dtype(self) -> str:
        """The safetensors name of `dtype`."""
        return from_torch_name(self.dtype)

    def selects(self, pair: Pair) -> bool:
        """Whether a change of this tensor is wanted."""
        return (not self.only or pair.matches(self.only)) and not pair.matches(self.skip)

    def least(self, noise: float) -> float:
        """The smallest relative change that counts, where rounding can make one of `noise`."""
        return noise if self.min_change is None else self.min_change

    def as_rounding(self, norms: "Norms") -> "LeftOut | None":
        """What a change of these norms is if it is too small to count."""
        least = self.least(norms.noise)
        if norms.relative >= least:
            return None
        return LeftOut(f"a relative change below {least:.2g}, as rounding makes", norms)


@final
@dataclass(frozen=True)
class Target:
    """A matrix that becomes a product of low rank; `is_conv1d` ones are stored as (in, out)."""

    pair: Pair
    is_embedding: bool
    is_conv1d: bool


@final
@dataclass(frozen=True)
class LeftOut:
    """A change that the adapter does not hold; without norms where there are none to compare."""

    reason: str
    norms: "Norms | None"


@final
@dataclass(frozen=True)
class ExtractPlan:
    """All that an extraction will do, but for ranks.

    Matrices are measured when they are read to be factored. Until `measured` has been told the
    outcome, `changes` lacks those in `factored`, and some of them may be left out yet.

    Attributes:
        changes: by target, how far each tensor changed; those of equal bytes are not in it.
        factored: matrices that become products.
        whole: tensors stored as they are.
        left_out: what the adapter does not hold.
        unchanged: the number of tensors that are the same in both.
    """

    pairing: Pairing
    changes: "Mapping[str, Norms]"
    factored: Mapping[str, Target]
    whole: Mapping[str, Replacement]
    left_out: Mapping[str, LeftOut]
    unchanged: int

    def measured(self, norms: "Mapping[str, Norms]", options: ExtractOptions) -> "ExtractPlan":
        """The plan when more is known of how far tensors changed: it leaves out what is rounding.

        Raises:
            LoratoolsError: nothing is left to store.
        """
        rounding = {
            target: left
            for target in self.factored
            if target in norms and (left := options.as_rounding(norms[target]))
        }
        left_out = {**self.left_out, **rounding}
        plan = replace(
            self,
            changes=_ordered(self.pairing, {**self.changes, **norms}),
            factored={t: each for t, each in self.factored.items() if t not in rounding},
            left_out=_ordered(self.pairing, left_out),
        )
        plan.check_not_empty()
        return plan

    def check_not_empty(self) -> None:
        """Refuse to make an adapter of nothing.

        Raises:
            LoratoolsError: nothing is left to store.
        """
        if not self.factored and not self.whole:
            pairs, left_out = self.pairing.pairs, self.left_out
            raise LoratoolsError(
                f"{self.pairing.tuned.where}: nothing to extract: {len(left_out)} changes are left "
                f"out, and {len(pairs) - len(left_out)} tensors are those of the base"
            )


def _ordered(pairing: Pairing, values: Mapping[str, _V]) -> dict[str, _V]:
    """In the order of the pairs."""
    return {target: values[target] for target in pairing.pairs if target in values}
