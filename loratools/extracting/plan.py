"""The plan of an extraction: what an adapter stores for every tensor that fine-tuning changed.

Matrices become products of low rank. What has no place in a LoRA is stored whole, as PEFT loads it:
biases by `bias: "all"`, other modules by `modules_to_save`, tables of another size by themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar, final

from loratools.adapter import Replacement
from loratools.errors import LoratoolsError, MatchError, UnsupportedError, check_finite, shorten
from loratools.extracting.pairing import Pair, Pairing
from loratools.extracting.saved_modules import saved_modules
from loratools.io.dtypes import FLOATS, from_torch_name
from loratools.names.conv1d import conv1d_weights
from loratools.names.globs import matches, no_match
from loratools.names.tied import is_embedding, is_lookup

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


def comparable(pairing: Pairing, options: ExtractOptions) -> tuple[Pair, ...]:
    """The pairs whose values have to be compared.

    Raises:
        MatchError: a tensor is in one model only, or has another shape, and is not skipped; or a
            glob matches no tensor of either model.
    """
    _check_globs(pairing, options)
    alone = [
        (f"{name}: the base has no such tensor", "--skip it, or store it whole with --full", name)
        for name, stored in pairing.new.items()
        if not Pair(name, (name, name), stored, stored).matches((*options.skip, *options.full))
    ]
    alone += [
        (f"{name}: the tuned model has no such tensor", "--skip it", name)
        for name in pairing.missing
        if not _matches(name, options.skip)
    ]
    for complaint, remedy, name in alone:
        if not options.only or _matches(name, options.only):
            more = f" (and {len(alone) - 1} more in one model only)" if len(alone) > 1 else ""
            raise MatchError(f"{pairing.tuned.where}: {shorten(complaint)}; {remedy}{more}")
    return tuple(pair for pair in pairing.pairs.values() if _is_comparable(pairing, pair, options))


def _check_globs(pairing: Pairing, options: ExtractOptions) -> None:
    names = [name for pair in pairing.pairs.values() for name in (pair.target, *pair.names)]
    names += [*pairing.new, *pairing.missing]
    for option in ("only", "skip", "full"):
        for glob in getattr(options, option):
            if not any(matches(glob, name) for name in names):
                raise no_match(glob, dict.fromkeys(names), option=f"--{option}")


def _is_comparable(pairing: Pairing, pair: Pair, options: ExtractOptions) -> bool:
    after, before = pair.after, pair.before
    if after.shape != before.shape:
        if options.selects(pair) and not _is_grown(pair):
            raise MatchError(
                f"{pairing.tuned.where}: {shorten(pair.names[0])} is {list(after.shape)} and "
                f"{list(before.shape)} in the base; are both of one kind of model? (--skip it)"
            )
        return False
    return True


def matrices(
    pairing: Pairing, differing: Sequence[Pair], options: ExtractOptions
) -> dict[str, Target]:
    """Of the tensors that differ, those that become products of low rank."""
    shapes = {target: pair.after.shape for target, pair in pairing.pairs.items()}
    conv1d = conv1d_weights(shapes, pairing.config)
    full = _full(pairing, options)
    return {
        pair.target: Target(
            pair,
            is_lookup(pair.target, pair.after.shape[0], pairing.config),
            pair.target in conv1d,
        )
        for pair in differing
        if options.selects(pair)
        and {pair.after.dtype, pair.before.dtype} <= set(FLOATS)
        and pair.target != pairing.entangled
        and _is_matrix(pair.target, pair.after.shape)
        and pair.target not in full
    }


def plan_extract(
    pairing: Pairing,
    factored: Mapping[str, Target],
    changes: "Mapping[str, Norms]",
    options: ExtractOptions,
) -> ExtractPlan:
    """What becomes of each change: of matrices to be factored, and of others with their norms.

    Raises:
        UnsupportedError: PEFT has no place for a changed tensor.
        LoratoolsError: nothing is left to store.
    """
    planner = _Planner(pairing, factored, changes, options)
    for target, pair in pairing.pairs.items():
        planner.place(target, pair)
    planner.store_modules()
    compared = sum(pair.after.shape == pair.before.shape for pair in pairing.pairs.values())
    plan = ExtractPlan(
        pairing=pairing,
        changes=changes,
        factored=planner.factored,
        whole=planner.whole,
        left_out=planner.left_out,
        unchanged=compared - len(changes) - len(factored),
    )
    plan.check_not_empty()
    return plan


@final
class _Planner:
    """A plan in the making."""

    def __init__(
        self,
        pairing: Pairing,
        factored: Mapping[str, Target],
        changes: "Mapping[str, Norms]",
        options: ExtractOptions,
    ) -> None:
        self.pairing = pairing
        self.options = options
        self.changes = changes
        self.factored = dict(factored)
        self.whole: dict[str, Replacement] = {}
        self.left_out: dict[str, LeftOut] = {}
        self._full = _full(pairing, options)
        self._modules: dict[str, str] = {}
        for name in pairing.new:
            if _matches(name, options.full):
                self._modules.setdefault(name.rpartition(".")[0], name)

    def place(self, target: str, pair: Pair) -> None:
        """Decide about one parameter."""
        has_grown = pair.after.shape != pair.before.shape
        norms = self.changes.get(target)
        if target in self.factored or (norms is None and not has_grown):
            return
        if not self.options.selects(pair):
            self.left_out[target] = LeftOut("not selected", norms)
        elif has_grown or norms is None:
            self._grow(target, pair)
        elif pair.after.dtype not in FLOATS:
            self._refuse(target, norms, f"stored as {pair.after.dtype}, codes or indices")
        elif rounding := self.options.as_rounding(norms):
            self.left_out[target] = rounding
        else:
            self._store(target, pair, norms)

    def _store(self, target: str, pair: Pair, norms: "Norms") -> None:
        if target in self._full:
            self._modules.setdefault(target.rpartition(".")[0], target)
        elif target == self.pairing.entangled:
            self._refuse(target, norms, "tied to more than a head in this kind of model")
        elif not self.options.keep_residual:
            self.left_out[target] = LeftOut("no place in a LoRA", norms)
        elif target.endswith("bias"):
            self.whole[target] = Replacement(pair.after, is_trained=True)
        elif self._is_alone(target):
            self._modules.setdefault(target.rpartition(".")[0], target)
        else:
            self._refuse(target, norms, "a parameter beside modules, which PEFT cannot save alone")

    def store_modules(self) -> None:
        """All tensors of the modules that are stored whole, as PEFT finds modules by their ends."""
        everything = {target: pair.after for target, pair in self.pairing.pairs.items()}
        everything |= self.pairing.new
        for target, stored in saved_modules(self._modules, everything):
            self.factored.pop(target, None)
            self.whole[target] = Replacement(stored, is_trained=True)
            self.left_out.pop(target, None)

    def _grow(self, target: str, pair: Pair) -> None:
        """A table with other rows, whole; its tied twin follows it."""
        if not self.options.keep_residual:
            self.left_out[target] = LeftOut("another number of rows", None)
        elif pair.twin is None:
            self.whole[target] = Replacement(pair.after, is_trained=False)

    def _refuse(self, target: str, norms: "Norms", reason: str) -> None:
        if self.options.keep_residual:
            raise UnsupportedError(
                f"{self.pairing.tuned.where}: {shorten(target)} has changed and is {reason}; leave "
                f"it out with --skip {target!r}, or all such with --residual drop"
            )
        self.left_out[target] = LeftOut(reason, norms)

    def _is_alone(self, target: str) -> bool:
        """Whether its module has no modules inside."""
        module = target.rpartition(".")[0]
        inside = f"{module}."
        others = (*self.pairing.pairs, *self.pairing.new)
        return bool(module) and not any(
            "." in name.removeprefix(inside) for name in others if name.startswith(inside)
        )


def _is_matrix(target: str, shape: tuple[int, ...]) -> bool:
    """Whether PEFT can put a LoRA on it; not on depthwise convolutions, nor on bare parameters."""
    is_depthwise = len(shape) > 2 and shape[1] == 1
    return target.endswith(".weight") and len(shape) >= 2 and not is_depthwise


def _full(pairing: Pairing, options: ExtractOptions) -> set[str]:
    """The targets to be stored whole, and those that are the same tensor."""
    pairs = pairing.pairs
    full = {target for target, pair in pairs.items() if pair.matches(options.full)}
    heads = {target for target, pair in pairs.items() if pair.twin in full}
    return full | heads | {twin for target in full if (twin := pairs[target].twin)}


def _ordered(pairing: Pairing, values: Mapping[str, _V]) -> dict[str, _V]:
    """In the order of the pairs."""
    return {target: values[target] for target in pairing.pairs if target in values}


def _is_grown(pair: Pair) -> bool:
    return is_embedding(pair.target) and pair.after.shape[1:] == pair.before.shape[1:]


def _matches(name: str, globs: tuple[str, ...]) -> bool:
    return any(matches(glob, name) for glob in globs)
