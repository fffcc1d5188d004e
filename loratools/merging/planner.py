"""Make a merge plan: add one adapter after another to the base's tensors.

Only headers are read, and the few tensors that have to be compared; nothing is written.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import final

from loratools.adapter import Adapter
from loratools.deltas import Delta, keys_of
from loratools.deltas.placed import overlap, placed
from loratools.deltas.rows import Rows
from loratools.errors import MatchError, UnsupportedError, about, shorten
from loratools.io.checkpoint import Checkpoint
from loratools.io.dtypes import FLOATS
from loratools.io.source import Source
from loratools.merging.accounts import Accounts, Term
from loratools.merging.announced import Planned, lost_head, missing, odd
from loratools.merging.dtypes import OutputDtypes
from loratools.merging.heads import with_head
from loratools.merging.lookup import Lookup
from loratools.merging.overlap import refuse_overlap
from loratools.merging.plan import Change, MergeOptions, MergePlan, PlannedTensor
from loratools.merging.replacement import check_replacement, check_weight, is_the_base
from loratools.merging.tied import with_tied_ends
from loratools.merging.vocabulary import with_vocabulary
from loratools.merging.weights import weights_with_blocks
from loratools.names.bases import another_base
from loratools.names.conv1d import square_is_transposed
from loratools.names.matching import Match, Place
from loratools.names.packed import packed_in
from loratools.names.quantised import declared_notes
from loratools.parts import ReplacedRows, Replacement, Update
from loratools.typed import one_of


def plan_merge(
    base: Checkpoint,
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    options: MergeOptions,
) -> MergePlan:
    """Plan `base + Σ weight · adapter`; without adapters, the base as it is.

    Raises:
        MatchError: an update has no counterpart in the base, or one of another shape; or a glob
            matches nothing.
        UnsupportedError: an update is of a packed weight, or an adapter cannot be merged exactly.
        FormatError: two adapters replace one tensor by different ones.
    """
    planner = Planner(base, options)
    every = weights_with_blocks(weights, options.block_weights, adapters)
    for number, (adapter, weight) in enumerate(zip(adapters, every, strict=True)):
        planner.add(Term(number, adapter, weight))
    if adapters:
        planner.notes.extend(planner.accounts.close(base, adapters))
    plan = MergePlan(
        base=base,
        adapters=tuple(adapters),
        weights=tuple(weights),
        tensors=planner.tensors,
        accounting=planner.accounts.accounting,
        notes=tuple(planner.notes),
        packed=planner.lookup.packed,
        recognised=planner.lookup.names.words,
        block_weights=tuple(weight.blocks for weight in every),
    )
    if planner.lookup.tied is not None:
        plan = with_tied_ends(plan, planner.lookup.tied)
    return with_head(with_vocabulary(plan))


@final
class Planner:
    """Finds the tensors of a base that adapters change, and plans the changes."""

    def __init__(self, base: Checkpoint, options: MergeOptions) -> None:
        packed = packed_in(base)
        self.base = base
        self.lookup = Lookup(base, packed)
        self.accounts = Accounts(options, self.lookup.names)
        self.dtypes = OutputDtypes(base, packed, options.stored_dtype)
        self.tensors = {
            name: PlannedTensor(name, self.dtypes.of(name, stored.dtype), stored, stored)
            for name, stored in base.tensors.items()
        }
        is_converted = options.stored_dtype is not None
        self.notes = [*declared_notes(base, packed, is_converted=is_converted)]
        self._touched_packed: list[str] = []

    def add(self, term: Term) -> None:
        """Add one adapter: replaced tensors, which may change shapes; updates; then single rows."""
        adapter = term.adapter
        adapter.check_usable()
        if note := another_base(adapter, self.base):
            self.notes.append(f"{adapter.where}: {note}")
        self.accounts.begin(term)
        for target, replacement in adapter.replaced.items():
            self._replace(term, target, replacement)
        self._add_updates(term)
        for target, rows in adapter.rows.items():
            self._set_rows(term, target, rows)
        self.lookup.packed.refuse(self._touched_packed, self.base.where)
        self._refuse_missing(term)

    def _replace(self, term: Term, target: str, replacement: Replacement) -> None:
        source, adapter = replacement.source, term.adapter
        match = self.lookup.match_name(target, partial(self.accounts.takes, target))
        name = match.name if match else target
        if self.accounts.leaves_out(term, source.keys, target, [name]):
            return
        names = self.lookup.names
        if match is None and names.components and names.has_rows(target, source.shape):
            raise UnsupportedError(
                f"{adapter.where}: {shorten(target)} is a tensor stored whole, of which the base "
                f"has the rows in another order or in other tensors, and so it cannot replace "
                f"them",
                tensor=target,
                hint=f"{one_of('skip', target)} leaves it out",
            )
        # A model for a task may have a head that its base lacks; models of images have none.
        if match is None and (names.components or not replacement.is_trained):
            self.accounts.unmatched(term, source.keys, target)
            return
        if self.lookup.packed.holds(name):
            self._touched_packed.append(name)
            return
        if replacement.is_trained:
            check_weight(term.weight, target, adapter.where)
        self.accounts.applied(term, source.keys)
        planned = self._planned(name, source)
        if not replacement.is_trained and planned.base:
            # An update is taken out of the tensor that holds it, and not out of a copy without it.
            is_kept = term.weight.of(target) <= 0 and source.shape == planned.base.shape
            if is_kept or is_the_base(source, planned.base):
                return
        if note := check_replacement(adapter, target, planned, replacement):
            self.notes.append(note)
        self.tensors[name] = replace(planned, origin=source, is_trained=replacement.is_trained)
        self.lookup.replaced(name, source.shape)

    def _add_updates(self, term: Term) -> None:
        updates = term.adapter.updates.items()
        found = ((target, update, self._match(term, target, update)) for target, update in updates)
        matched = [(target, update, match) for target, update, match in found if match is not None]
        # The shape of a square weight does not show how it is stored: that of the others does.
        swap_square = square_is_transposed(
            claimed=any(update.fan_in_fan_out for _, update, _ in matched),
            non_square=(m.is_transposed for _, u, m in matched if _tells_orientation(u)),
            config=self.base.config,
        )
        for target, update, match in matched:
            oriented = match
            if update.fan_in_fan_out is not None and not _tells_orientation(update):
                oriented = replace(match, is_transposed=swap_square != match.is_exchanged)
            self._add_update(term, target, update, oriented)

    def _add_update(self, term: Term, target: str, update: Update, match: Match) -> None:
        """Add the change of each base tensor that an update's target means."""
        delta = update.delta
        places = [place for place in match.places if self.accounts.takes(target, place.name)]
        names = [place.name for place in places or match.places]
        if self.accounts.leaves_out(term, keys_of(delta), target, names):
            return
        if touched := [place.name for place in places if self.lookup.packed.holds(place.name)]:
            self._touched_packed += touched
            return
        if match.is_transposed:
            delta = delta.transposed()
        self.accounts.applied(term, keys_of(delta))
        delta, strength, block = term.weight.given_to(delta, target)
        for place in places:
            change = Change(
                term.number,
                target,
                self._placed(term.adapter, target, delta, place),
                strength,
                match.renaming,
                match.is_transposed,
                is_shared=update.is_shared,
                block_weight=block,
            )
            self._change(term.adapter, place.name, change)

    def _placed(self, adapter: Adapter, target: str, delta: Delta, place: Place) -> Delta:
        """The change of one base tensor: its rows of an update, in their place."""
        shape = self.lookup.shape(place.name)
        if place.is_whole(delta.shape, shape):
            return delta
        try:
            part = delta.rows(place.begin, place.end)
            return placed(part, place.runs, shape)
        except UnsupportedError as error:
            raise UnsupportedError(
                f"{adapter.where}: {shorten(target)} is stored otherwise in the base, as "
                f"{shorten(place.name)}: {error}",
                tensor=target,
            ) from None

    def _refuse_missing(self, term: Term) -> None:
        """Refuse an adapter that has lost what this base shows was trained; note what is odd."""
        adapter, blocks = term.adapter, term.weight.blocks
        planned = Planned(
            self.tensors,
            self.lookup.tied,
            term.number,
            lambda name: self.accounts.takes(name) and blocks.of(name) != 0,
        )
        for lost in (*missing(adapter.announced, planned), *lost_head(adapter, self.base, planned)):
            where = adapter.announced.file or adapter.where
            raise UnsupportedError(f"{where}: {lost}", file=where)
        self.notes.extend(f"{adapter.where}: {line}" for line in odd(adapter.announced, planned))

    def _match(self, term: Term, target: str, update: Update) -> Match | None:
        """The base tensors of an update; None without any, which is then accounted for."""
        may_transpose = update.fan_in_fan_out is not None
        try:
            return self.lookup.match(
                target,
                update.delta.shape,
                may_transpose=may_transpose,
                takes=partial(self.accounts.takes, target),
            )
        except MatchError as error:
            keys = keys_of(update.delta)
            if not self.accounts.leaves_out(term, keys, target):
                self.accounts.unmatched(term, keys, target, str(error))
            return None

    def _set_rows(self, term: Term, target: str, rows: ReplacedRows) -> None:
        keys = rows.rows.keys
        match = self.lookup.match_name(target, partial(self.accounts.takes, target))
        name = match.name if match else target
        if self.accounts.leaves_out(term, keys, target, [name]):
            return
        if match is None:
            self.accounts.unmatched(term, keys, target)
        elif self.lookup.packed.holds(name):
            self._touched_packed.append(name)
        else:
            delta = Rows(rows.indices, rows.rows, self.lookup.shape(name))
            change = Change(
                term.number,
                target,
                delta,
                term.weight.of(target),
                match.renaming,
                is_transposed=False,
                rows=delta,
            )
            with about(change.target):
                refuse_overlap(term.adapter, self._planned(name), change, delta)
            self.accounts.applied(term, keys_of(delta))
            self._change(term.adapter, name, change)

    def _change(self, adapter: Adapter, name: str, change: Change) -> None:
        if change.delta.additive is None and change.strength < 0:
            raise UnsupportedError(
                f"{adapter.where}: {shorten(change.target)}: {change.delta.kind} depends on the "
                f"weight it changed, so a weight of {change.strength:g} does not take it out again",
                tensor=change.target,
            )
        planned = self._planned(name)
        if planned.origin.dtype not in FLOATS:
            raise UnsupportedError(
                f"{self.base.where}: {name} is stored as {planned.origin.dtype}, which are codes "
                f"or indices, to which no update can be added"
            )
        for other in planned.changes:
            is_same = other.adapter != change.adapter or other.target == change.target
            if not is_same and overlap(other.delta, change.delta):
                raise MatchError(
                    f"{adapter.where}: {shorten(other.target)} and {shorten(change.target)} both "
                    f"mean {name}",
                    tensor=other.target,
                )
        self.tensors[name] = replace(planned, changes=(*planned.changes, change))

    def _planned(self, name: str, source: Source | None = None) -> PlannedTensor:
        """The plan for a tensor so far; a tied head that is not stored starts as the embedding.

        For a tensor that the base lacks, it is a new one with the values of `source`.
        """
        if name in self.tensors:
            return self.tensors[name]
        tied = self.lookup.tied
        if tied is not None and name == tied.head:
            embedding = self.tensors[tied.embedding]
            assert embedding.base is not None, name
            return PlannedTensor(name, embedding.dtype, embedding.base, embedding.base)
        assert source is not None, name
        return PlannedTensor(name, self.dtypes.of_new(name, source.dtype), None, source)


def _tells_orientation(update: Update) -> bool:
    """Whether an update may be stored transposed and has a shape that shows whether it is."""
    shape = update.delta.shape
    return update.fan_in_fan_out is not None and shape[0] != shape[1]
