"""The plan of an extraction: what an adapter stores for every tensor that fine-tuning changed.

Matrices become products of low rank. What has no place in a LoRA is stored whole, as PEFT loads it:
biases by `bias: "all"`, other modules by `modules_to_save`, tables of another size by themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, final

from loratools.adapter import Replacement
from loratools.errors import LoratoolsError, MatchError, UnsupportedError, shorten
from loratools.io.dtypes import FLOATS, from_torch_name
from loratools.names.conv1d import conv1d_weights
from loratools.names.tied import is_embedding, is_lookup
from loratools.operations.pairing import Pair, Pairing
from loratools.operations.saved_modules import saved_modules

if TYPE_CHECKING:
    from loratools.operations.difference import Norms


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

    @property
    def stored_dtype(self) -> str:
        """The safetensors name of `dtype`."""
        return from_torch_name(self.dtype)

    def selects(self, pair: Pair) -> bool:
        """Whether a change of this tensor is wanted."""
        return (not self.only or pair.matches(self.only)) and not pair.matches(self.skip)


@final
@dataclass(frozen=True)
class Target:
    """A matrix that becomes a product of low rank; `is_conv1d` ones are stored as (in, out)."""

    pair: Pair
    norms: "Norms"
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


def comparable(pairing: Pairing, options: ExtractOptions) -> tuple[Pair, ...]:
    """The pairs whose values have to be compared.

    Raises:
        MatchError: a tensor is in one model only, or has another shape, and is not skipped.
    """
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


def plan_extract(
    pairing: Pairing,
    changes: "Mapping[str, Norms]",
    options: ExtractOptions,
) -> ExtractPlan:
    """What becomes of each change.

    Raises:
        UnsupportedError: PEFT has no place for a changed tensor.
        LoratoolsError: nothing is left to store.
    """
    planner = _Planner(pairing, changes, options)
    for target, pair in pairing.pairs.items():
        planner.place(target, pair)
    planner.store_modules()
    if not planner.factored and not planner.whole:
        raise LoratoolsError(
            f"{pairing.tuned.where}: nothing to extract: {len(planner.left_out)} changes are left "
            f"out, and {len(pairing.pairs) - len(planner.left_out)} tensors are those of the base"
        )
    compared = sum(pair.after.shape == pair.before.shape for pair in pairing.pairs.values())
    return ExtractPlan(
        pairing=pairing,
        changes=changes,
        factored=planner.factored,
        whole=planner.whole,
        left_out=planner.left_out,
        unchanged=compared - len(changes),
    )


@final
class _Planner:
    """A plan in the making."""

    def __init__(
        self,
        pairing: Pairing,
        changes: "Mapping[str, Norms]",
        options: ExtractOptions,
    ) -> None:
        self.pairing = pairing
        self.options = options
        self.changes = changes
        self.factored: dict[str, Target] = {}
        self.whole: dict[str, Replacement] = {}
        self.left_out: dict[str, LeftOut] = {}
        self._modules: dict[str, str] = {}
        shapes = {target: pair.after.shape for target, pair in pairing.pairs.items()}
        self._conv1d = conv1d_weights(shapes, pairing.config)
        for name in pairing.new:
            if _matches(name, options.full):
                self._modules.setdefault(name.rpartition(".")[0], name)

    def place(self, target: str, pair: Pair) -> None:
        """Decide about one parameter."""
        has_grown = pair.after.shape != pair.before.shape
        norms = self.changes.get(target)
        if norms is None and not has_grown:
            return
        if not self.options.selects(pair):
            self.left_out[target] = LeftOut("not selected", norms)
        elif has_grown or norms is None:
            self._grow(target, pair)
        elif pair.after.dtype not in FLOATS:
            self._refuse(target, norms, f"stored as {pair.after.dtype}, codes or indices")
        elif norms.relative < self._least(norms):
            reason = f"a relative change below {self._least(norms):.2g}, as rounding makes"
            self.left_out[target] = LeftOut(reason, norms)
        else:
            self._store(target, pair, norms)

    def _store(self, target: str, pair: Pair, norms: "Norms") -> None:
        if pair.matches(self.options.full) or self._twin_is_full(pair):
            self._modules.setdefault(target.rpartition(".")[0], target)
        elif target == self.pairing.entangled:
            self._refuse(target, norms, "tied to more than a head in this kind of model")
        elif _is_matrix(target, pair.after.shape):
            lookup = is_lookup(target, pair.after.shape[0], self.pairing.config)
            self.factored[target] = Target(pair, norms, lookup, target in self._conv1d)
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

    def _least(self, norms: "Norms") -> float:
        return norms.noise if self.options.min_change is None else self.options.min_change

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

    def _twin_is_full(self, pair: Pair) -> bool:
        twins = [p for p in self.pairing.pairs.values() if p.twin == pair.target]
        twins += [self.pairing.pairs[pair.twin]] if pair.twin else []
        return any(twin.matches(self.options.full) for twin in twins)

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


def _is_grown(pair: Pair) -> bool:
    return is_embedding(pair.target) and pair.after.shape[1:] == pair.before.shape[1:]


def _matches(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
