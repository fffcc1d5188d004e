"""The plan of an extraction: how an adapter stores every tensor that fine-tuning changed.

Matrices become low-rank products. What has no place in a LoRA is stored whole, as PEFT loads it:
biases by `bias: "all"`, other modules by `modules_to_save`, and embeddings of another size as
tensors of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar, final

from loratools.arguments import checked_fields
from loratools.checks import check_choice, check_finite
from loratools.errors import LoratoolsError, counted, shorten
from loratools.extracting.pairing import Pair, Pairing
from loratools.io.dtypes import from_torch_name
from loratools.parts import Replacement
from loratools.showing.shown import Brief
from loratools.typed import as_typed

if TYPE_CHECKING:
    from loratools.extracting.difference import Norms

_V = TypeVar("_V")


@checked_fields
@final
@dataclass(frozen=True, kw_only=True, repr=False)
class ExtractOptions(Brief):
    """The choices of what is extracted, and how it is stored.

    Attributes:
        only: look only at tensors that match one of these globs.
        skip: leave out tensors that match one of these globs.
        full: store modules that match one of these globs whole, and not as factors.
        keep_residual: whether changes that have no place in a LoRA are stored, or else left out.
        min_change: leave out tensors with a relative change below this; None for the change that
            rounding alone can make, by the dtypes of the two files.
        dtype: the dtype of the factors: `float32`, `bfloat16` or `float16`.
        device: the device that computes; the CPU if None. The last bits of the factors depend on
            it.

    Example:
        >>> import loratools
        >>> options = loratools.ExtractOptions(full=["*embed_tokens*"], keep_residual=False)
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    keep_residual: bool = True
    min_change: float | None = None
    dtype: str = "float32"
    device: str | None = None

    def __post_init__(self) -> None:
        """Refuse a smallest change that is not finite, and an unknown dtype or device."""
        check_finite(as_typed("min_change"), self.min_change or 0.0)
        check_choice("dtype", self.dtype, ("float32", "bfloat16", "float16"))
        if self.device is not None:
            from loratools.lowrank.devices import usable_device

            usable_device(self.device)

    @property
    def stored_dtype(self) -> str:
        """The safetensors name of `dtype`."""
        return from_torch_name(self.dtype)

    def selects(self, pair: Pair) -> bool:
        """Whether `only` and `skip` select a change of this tensor."""
        return (not self.only or pair.matches(self.only)) and not pair.matches(self.skip)

    def least(self, noise: float) -> float:
        """The smallest relative change that counts, if rounding alone can make one of `noise`."""
        return noise if self.min_change is None else self.min_change

    def as_rounding(self, norms: "Norms") -> "LeftOut | None":
        """The reason to leave a change out if its norms are too small to count; else None."""
        least = self.least(norms.noise)
        if norms.relative >= least:
            return None
        return LeftOut(f"a relative change below {least:.2g}, as rounding makes", norms)


@final
@dataclass(frozen=True)
class Target:
    """A matrix that becomes a low-rank product; with `is_conv1d`, it is stored as (in, out)."""

    pair: Pair
    is_embedding: bool
    is_conv1d: bool


@final
@dataclass(frozen=True)
class LeftOut:
    """A change that the adapter leaves out, and why; `norms` is None if shapes differ."""

    reason: str
    norms: "Norms | None"


@final
@dataclass(frozen=True, repr=False)
class ExtractPlan:
    """All that an extraction will do, except for the ranks.

    Matrices are measured when they are read to be factored. Until then, `changes` lacks the
    targets in `factored`, and `measured` may still leave some of them out.

    Attributes:
        pairing: the two models.
        changes: the norms of each changed tensor, by target; equal tensors are not in it.
        factored: the matrices that become low-rank products.
        whole: the tensors that are stored as they are.
        left_out: the changes that the adapter does not store.
        unchanged: the number of tensors that are equal in both models.
    """

    pairing: Pairing
    changes: "Mapping[str, Norms]"
    factored: Mapping[str, Target]
    whole: Mapping[str, Replacement]
    left_out: Mapping[str, LeftOut]
    unchanged: int

    def __repr__(self) -> str:
        """One line: the two models, and how much is stored in which way."""
        models = f"{shorten(self.pairing.tuned.where)} - {shorten(self.pairing.base.where)}"
        factored = counted(len(self.factored), "matrix", "matrices")
        whole, left_out = len(self.whole), len(self.left_out)
        return f"<ExtractPlan of {models}: {factored}, {whole} whole, {left_out} left out>"

    def measured(self, norms: "Mapping[str, Norms]", options: ExtractOptions) -> "ExtractPlan":
        """Complete the plan with norms of changes, and leave out changes that are only rounding.

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
        """Refuse a plan for an adapter that would store nothing.

        Raises:
            LoratoolsError: nothing is left to store.
        """
        if not self.factored and not self.whole:
            left_out = self.left_out
            same = len(self.pairing.pairs) - len(left_out)
            why = (
                f"{counted(len(left_out), 'change is', 'changes are')} left out, and "
                f"{counted(same, 'tensor is that', 'tensors are those')} of the base"
                if left_out
                else "both models have the same weights"
            )
            raise LoratoolsError(
                f"{self.pairing.tuned.where}: nothing to extract: {why}",
                hint="name the model that was trained, and then its base",
            )


def _ordered(pairing: Pairing, values: Mapping[str, _V]) -> dict[str, _V]:
    """The values in the order of the pairs."""
    return {target: values[target] for target in pairing.pairs if target in values}
