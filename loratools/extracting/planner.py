"""Plans an extraction: decides about every tensor that fine-tuning changed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from loratools.errors import UnsupportedError, shorten
from loratools.extracting.pairing import Pair, Pairing
from loratools.extracting.plan import ExtractOptions, ExtractPlan, LeftOut, Target
from loratools.extracting.saved_modules import saved_modules
from loratools.extracting.selection import matches_any, wanted_whole
from loratools.io.dtypes import FLOATS
from loratools.io.source import Source
from loratools.parts import Replacement
from loratools.typed import drop_residual, one_of

if TYPE_CHECKING:
    from loratools.extracting.difference import Norms


def plan_extract(
    pairing: Pairing,
    factored: Mapping[str, Target],
    changes: "Mapping[str, Norms]",
    options: ExtractOptions,
) -> ExtractPlan:
    """Plan how each change is stored; `changes` has the norms of those that are not factored.

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
    """Collects the parts of a plan, one parameter after another."""

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
        self._full = wanted_whole(pairing, options)
        self._modules: dict[str, str] = {}
        for name in pairing.new:
            if matches_any(name, options.full):
                self._modules.setdefault(name.rpartition(".")[0], name)

    def place(self, target: str, pair: Pair) -> None:
        """Decide how one parameter is stored, or that it is left out."""
        has_grown = pair.after.shape != pair.before.shape
        norms = self.changes.get(target)
        if target in self.factored or (norms is None and not has_grown):
            return
        if not self.options.selects(pair):
            self.left_out[target] = LeftOut("not selected", norms)
        elif has_grown or norms is None:
            self._grow(target, pair)
        elif pair.packed is not None:
            self._refuse(target, norms, f"stored {pair.packed}")
        elif pair.after.dtype not in FLOATS:
            self._refuse(target, norms, f"stored as {pair.after.dtype}, codes or indices")
        elif rounding := self.options.as_rounding(norms):
            self.left_out[target] = rounding
        else:
            self._store(target, pair, norms)

    def _store(self, target: str, pair: Pair, norms: "Norms") -> None:
        if self.pairing.dialect.components:
            self._refuse(target, norms, "nothing that diffusers loads from an adapter")
        elif target in self._full:
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
        """Add all tensors of the modules stored whole, and of others that PEFT finds with them.

        PEFT matches modules by suffixes of their names. A matrix in such a module is not factored.
        """
        everything: dict[str, Source] = {
            target: pair.after for target, pair in self.pairing.pairs.items()
        }
        everything |= self.pairing.new
        for target, stored in saved_modules(self._modules, everything):
            self.factored.pop(target, None)
            self.whole[target] = Replacement(stored, is_trained=True)
            self.left_out.pop(target, None)

    def _grow(self, target: str, pair: Pair) -> None:
        """Store an embedding with another number of rows whole; its tied twin follows it."""
        if not self.options.keep_residual:
            self.left_out[target] = LeftOut("another number of rows", None)
        elif self.pairing.dialect.components:
            self._refuse(target, None, "nothing that diffusers loads from an adapter")
        elif pair.twin is None:
            self.whole[target] = Replacement(pair.after, is_trained=False)

    def _refuse(self, target: str, norms: "Norms | None", reason: str) -> None:
        if self.options.keep_residual:
            raise UnsupportedError(
                f"{self.pairing.tuned.where}: {shorten(target)} has changed and is {reason}",
                tensor=target,
                hint=f"leave it out with {one_of('skip', target)}, or all such with "
                f"{drop_residual()}",
            )
        self.left_out[target] = LeftOut(reason, norms)

    def _is_alone(self, target: str) -> bool:
        """Whether the module of a parameter contains no other modules."""
        module = target.rpartition(".")[0]
        inside = f"{module}."
        others = (*self.pairing.pairs, *self.pairing.new)
        return bool(module) and not any(
            "." in name.removeprefix(inside) for name in others if name.startswith(inside)
        )
