"""The accounts of a merge: what becomes of each adapter tensor, and which lacks a counterpart."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from loratools.adapter import Adapter
from loratools.errors import MatchError, about
from loratools.io.checkpoint import Checkpoint
from loratools.merging.plan import Accounting, MergeOptions
from loratools.merging.unmatched import Unmatched
from loratools.merging.weights import Weight
from loratools.names.globs import Selection
from loratools.names.matching import BaseNames
from loratools.typed import as_typed


@final
@dataclass(frozen=True)
class Term:
    """One of the adapters that are added to a base: its number from 0, and its weight."""

    number: int
    adapter: Adapter
    weight: Weight

    def named(self, keys: Iterable[str]) -> Iterable[str]:
        """Tensors of the adapter by the names that they have in the accounting."""
        return (f"{self.number}: {key}" for key in keys)


@final
class Accounts:
    """Accounts for every tensor of adapters, in the groups that `Accounting` has."""

    def __init__(self, options: MergeOptions, names: BaseNames) -> None:
        self.accounting = Accounting()
        self._allow_unmatched = options.allow_unmatched
        self._selection = Selection(options.only, options.skip)
        self._unmatched = Unmatched(names)

    def begin(self, term: Term) -> None:
        """Account for the tensors of an adapter that change no weight, whatever the base is."""
        inert = self.accounting.inert
        for copy in term.adapter.copies:
            copy.check(term.adapter.where)
            inert[f"{term.number}: {copy.source.keys[0]}"] = f"repeats {copy.of.keys[0]}"
        inert.update(
            (f"{term.number}: {key}", reason) for key, reason in term.adapter.inert.items()
        )

    def takes(self, *names: str) -> bool:
        """Whether the tensor that has these names is selected."""
        return self._selection.takes(*names)

    def leaves_out(
        self, term: Term, keys: Iterable[str], target: str, names: Iterable[str] = ()
    ) -> bool:
        """Whether the user leaves out the tensors of a target, which are then accounted for.

        `names` are those of the base tensors that the target means.
        """
        group = None
        if not self.takes(target, *names):
            group = self.accounting.skipped
        elif term.weight.blocks.of(target) == 0:
            group = self.accounting.weightless
        if group is not None:
            group.extend(term.named(keys))
        return group is not None

    def applied(self, term: Term, keys: Iterable[str]) -> None:
        """Account for tensors that are applied."""
        self.accounting.applied.extend(term.named(keys))

    def unmatched(self, term: Term, keys: Iterable[str], target: str, reason: str = "") -> None:
        """Account for the tensors of a target that has no counterpart in the base."""
        self.accounting.unmatched.extend(term.named(keys))
        reason = reason or f"{target}: no such tensor in the base"
        self._unmatched.add(term.number, target, reason)

    def close(self, base: Checkpoint, adapters: Sequence[Adapter]) -> Iterable[str]:
        """Check that nothing is without a counterpart; return notes on what is left out for it.

        Raises:
            MatchError: an update or a glob has no counterpart, or there is nothing left to apply.
        """
        self._selection.check_used(base.tensors)
        if self._unmatched and not self._allow_unmatched:
            with about(self._unmatched.first):
                raise self._unmatched.error(adapters, base.where, base.lacks)
        if not self.accounting.applied:
            raise MatchError(
                f"{base.where}: no adapter tensor is left to apply",
                hint=f"{as_typed('only')} and {as_typed('skip')} leave all out"
                if self.accounting.skipped
                else "no update has a place in it: name the model that the adapter is for",
            )
        return self._unmatched.notes()
