"""Make a merge plan: add one adapter after another to the base's tensors.

Only headers are read, and the few tensors that have to be compared; nothing is written.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import final

from loratools.adapter import Adapter, ReplacedRows, Replacement, Update
from loratools.deltas import Delta, keys_of
from loratools.deltas.placed import overlap, placed
from loratools.deltas.rows import Rows
from loratools.errors import MatchError, UnsupportedError, shorten
from loratools.io.checkpoint import Checkpoint
from loratools.io.dtypes import FACTORS, FLOATS
from loratools.io.source import Source
from loratools.merging.announced import Planned, lost_head, missing, odd
from loratools.merging.heads import with_head
from loratools.merging.overlap import refuse_overlap
from loratools.merging.plan import Accounting, Change, MergeOptions, MergePlan, PlannedTensor
from loratools.merging.replacement import check_replacement, is_the_base
from loratools.merging.tied import with_tied_ends
from loratools.merging.unmatched import Unmatched
from loratools.merging.vocabulary import with_vocabulary
from loratools.merging.weights import Weight, weights_with_blocks
from loratools.names.bases import another_base
from loratools.names.block_weights import BlockWeights
from loratools.names.conv1d import square_is_transposed
from loratools.names.globs import Selection
from loratools.names.matching import BaseNames, Match, Place
from loratools.names.modules import models_of
from loratools.names.packed import packed_in
from loratools.names.quantised import declared_notes
from loratools.names.tied import find_used_head


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
        planner.add(number, adapter, weight)
    if adapters:
        planner.check_complete(adapters)
    plan = MergePlan(
        base=base,
        adapters=tuple(adapters),
        weights=tuple(weights),
        tensors=planner.tensors,
        accounting=planner.accounting,
        notes=tuple(planner.notes),
        packed=planner.packed,
        recognised=planner.recognised,
        block_weights=tuple(weight.blocks for weight in every),
    )
    if planner.tied is not None:
        plan = with_tied_ends(plan, planner.tied)
    return with_head(with_vocabulary(plan))


@final
class Planner:
    """Finds the tensors of a base that adapters change, and accounts for every tensor of theirs."""

    def __init__(self, base: Checkpoint, options: MergeOptions) -> None:
        self.base = base
        self.options = options
        self.packed = packed_in(base)
        self.tensors = {
            name: PlannedTensor(name, self._output_dtype(stored.dtype, name), stored, stored)
            for name, stored in base.tensors.items()
        }
        self.accounting = Accounting()
        is_converted = options.stored_dtype is not None
        self.notes = [*declared_notes(base, self.packed, is_converted=is_converted)]
        self._selection = Selection(options.only, options.skip)
        self.tied = find_used_head(base.tensors, base.config)
        # Apart from the base's tensors: replacements change shapes, and adapters may name a tied
        # head that is not stored.
        self._shapes = {name: stored.shape for name, stored in base.tensors.items()}
        if self.tied is not None:
            self._shapes.setdefault(self.tied.head, self._shapes[self.tied.embedding])
            self.packed = self.packed.with_tied(self.tied.embedding, self.tied.head)
        self._shapes |= self.packed.shapes
        self._models = models_of(base.config)
        self._names = BaseNames(self._shapes, self._models)
        self._unmatched = Unmatched(self._names)
        self._touched: list[str] = []

    @property
    def recognised(self) -> str | None:
        """What the base was recognised as, in words."""
        return self._names.words

    def add(self, number: int, adapter: Adapter, weight: Weight) -> None:
        """Add one adapter: replaced tensors, which may change shapes; updates; then single rows."""
        adapter.check_usable()
        if note := another_base(adapter, self.base):
            self.notes.append(f"{adapter.where}: {note}")
        for copy in adapter.copies:
            copy.check(adapter.where)
            self.accounting.inert[f"{number}: {copy.source.keys[0]}"] = f"repeats {copy.of.keys[0]}"
        self.accounting.inert.update(
            (f"{number}: {key}", reason) for key, reason in adapter.inert.items()
        )
        for target, replacement in adapter.replaced.items():
            self._replace(number, adapter, target, replacement, weight)
        self._add_updates(number, adapter, weight)
        for target, rows in adapter.rows.items():
            self._set_rows(number, adapter, target, rows, weight)
        self.packed.refuse(self._touched, self.base.where)
        self._refuse_missing(number, adapter, weight.blocks)

    def check_complete(self, adapters: Sequence[Adapter]) -> None:
        """Check that every update has a counterpart, and that every glob matched something.

        Raises:
            MatchError: an update or a glob has no counterpart, or there is nothing left to apply.
        """
        self._selection.check_used(self.base.tensors)
        if self._unmatched and not self.options.allow_unmatched:
            reason = self._unmatched.error(adapters)
            raise MatchError(f"{self.base.where}: {reason}{self.base.lacks}")
        self.notes.extend(self._unmatched.notes())
        if not self.accounting.applied:
            raise MatchError(f"{self.base.where}: no adapter tensor is left to apply")

    def _replace(
        self, number: int, adapter: Adapter, target: str, replacement: Replacement, weight: Weight
    ) -> None:
        source = replacement.source
        match = self.packed.or_packed(target, self._names.match_name(target))
        name = match.name if match else target
        if self._leaves_out(number, source.keys, weight, target, name):
            return
        if match is None and not replacement.is_trained:
            self._complain(number, target, source.keys)
            return
        if self.packed.holds(name):
            self._touched.append(name)
            return
        if replacement.is_trained and weight.of(target) != 1:
            raise UnsupportedError(
                f"{adapter.where}: {shorten(target)} replaces the base's tensor whole, which has "
                f"no weight of {weight.of(target):g}; leave it out with --skip {target!r}, or use "
                f"weight 1"
            )
        self._count(self.accounting.applied, number, source.keys)
        planned = self._planned(name, source)
        # An untrained copy of the base's tensor replaces nothing.
        if not replacement.is_trained and planned.base and is_the_base(source, planned.base):
            return
        if note := check_replacement(adapter, target, planned, source):
            self.notes.append(note)
        self.tensors[name] = replace(planned, origin=source, is_trained=replacement.is_trained)
        if self._shapes.get(name) != source.shape:
            self._shapes = {**self._shapes, name: source.shape}
            self._names = BaseNames(self._shapes, self._models)

    def _add_updates(self, number: int, adapter: Adapter, weight: Weight) -> None:
        matched = []
        for target, update in adapter.updates.items():
            match = self._match(number, target, update, weight)
            if match is not None:
                matched.append((target, update, match))
        # The shape of a square weight does not show how it is stored: that of the others does.
        swap_square = square_is_transposed(
            claimed=any(update.fan_in_fan_out for _, update, _ in matched),
            non_square=(m.is_transposed for _, u, m in matched if _tells_orientation(u)),
            config=self.base.config,
        )
        for target, update, match in matched:
            places = [p for p in match.places if self._selection.takes(target, p.name)]
            if not places or weight.blocks.of(target) == 0:
                left_out = self.accounting.weightless if places else self.accounting.skipped
                self._count(left_out, number, keys_of(update.delta))
                continue
            if touched := [place.name for place in places if self.packed.holds(place.name)]:
                self._touched += touched
                continue
            delta, is_transposed = update.delta, match.is_transposed
            if update.fan_in_fan_out is not None and delta.shape[0] == delta.shape[1]:
                is_transposed = swap_square != match.is_exchanged
            if is_transposed:
                delta = delta.transposed()
            self._count(self.accounting.applied, number, keys_of(delta))
            delta, strength, block = weight.given_to(delta, target)
            for place in places:
                change = Change(
                    number,
                    target,
                    self._placed(adapter, target, delta, place),
                    strength,
                    match.renaming,
                    is_transposed,
                    is_shared=update.is_shared,
                    block_weight=block,
                )
                self._change(adapter, place.name, change)

    def _placed(self, adapter: Adapter, target: str, delta: Delta, place: Place) -> Delta:
        """The change of one base tensor: its rows of an update, in their place."""
        shape = self._shapes[place.name]
        if place.is_whole(delta.shape, shape):
            return delta
        try:
            part = delta.rows(place.begin, place.end)
            return placed(part, place.runs, shape)
        except UnsupportedError as error:
            raise UnsupportedError(
                f"{adapter.where}: {shorten(target)} is stored otherwise in the base, as "
                f"{shorten(place.name)}: {error}"
            ) from None

    def _leaves_out(
        self, number: int, keys: Iterable[str], weight: Weight, target: str, *names: str
    ) -> bool:
        """Whether the user leaves out the tensors of these keys, which are then counted."""
        if not self._selection.takes(target, *names):
            self._count(self.accounting.skipped, number, keys)
        elif weight.blocks.of(target) == 0:
            self._count(self.accounting.weightless, number, keys)
        else:
            return False
        return True

    def _refuse_missing(self, number: int, adapter: Adapter, blocks: BlockWeights) -> None:
        """Refuse an adapter that has lost what this base shows was trained; note what is odd."""
        takes = self._selection.takes
        planned = Planned(
            self.tensors, self.tied, number, lambda name: takes(name) and blocks.of(name) != 0
        )
        for lost in (*missing(adapter.announced, planned), *lost_head(adapter, self.base, planned)):
            raise UnsupportedError(f"{adapter.where}: {lost}")
        self.notes.extend(f"{adapter.where}: {line}" for line in odd(adapter.announced, planned))

    def _match(self, number: int, target: str, update: Update, weight: Weight) -> Match | None:
        """The base tensor of an update; without one None, and a complaint if it was selected."""
        complaint = ""
        try:
            match = self._names.match(
                target,
                update.delta.shape,
                may_transpose=update.fan_in_fan_out is not None,
            )
        except MatchError as error:
            match, complaint = None, str(error)
        match = self.packed.or_packed(target, match)
        keys = keys_of(update.delta)
        if match is None and not self._leaves_out(number, keys, weight, target):
            self._complain(number, target, keys, complaint)
        return match

    def _set_rows(
        self, number: int, adapter: Adapter, target: str, rows: ReplacedRows, weight: Weight
    ) -> None:
        match = self.packed.or_packed(target, self._names.match_name(target))
        name = match.name if match else target
        if self._leaves_out(number, rows.rows.keys, weight, target, name):
            return
        if match is None:
            self._complain(number, target, rows.rows.keys)
        elif self.packed.holds(match.name):
            self._touched.append(match.name)
        else:
            delta = Rows(rows.indices, rows.rows, self._shapes[match.name])
            whole = weight.of(target)
            change = Change(
                number, target, delta, whole, match.renaming, is_transposed=False, rows=delta
            )
            refuse_overlap(adapter, self._planned(match.name), change, delta)
            self._count(self.accounting.applied, number, keys_of(delta))
            self._change(adapter, match.name, change)

    def _change(self, adapter: Adapter, name: str, change: Change) -> None:
        if change.delta.additive is None and change.strength < 0:
            raise UnsupportedError(
                f"{adapter.where}: {shorten(change.target)}: {change.delta.kind} depends on the "
                f"weight it changed, so a weight of {change.strength:g} does not take it out again"
            )
        planned = self._planned(name)
        if planned.origin.dtype not in FLOATS:
            raise UnsupportedError(
                f"{self.base.where}: {name} is stored as {planned.origin.dtype}, which are codes "
                f"or indices; an update cannot be added to them"
            )
        for other in planned.changes:
            is_same = other.adapter != change.adapter or other.target == change.target
            if not is_same and overlap(other.delta, change.delta):
                raise MatchError(
                    f"{adapter.where}: {shorten(other.target)} and {shorten(change.target)} both "
                    f"mean {name}"
                )
        self.tensors[name] = replace(planned, changes=(*planned.changes, change))

    def _planned(self, name: str, source: Source | None = None) -> PlannedTensor:
        """The plan for a tensor so far; a tied head that is not stored starts as the embedding."""
        if name in self.tensors:
            return self.tensors[name]
        if self.tied is not None and name == self.tied.head:
            embedding = self.tensors[self.tied.embedding]
            assert embedding.base is not None, name
            return PlannedTensor(name, embedding.dtype, embedding.base, embedding.base)
        assert source is not None, name
        dtype = self._main_dtype() if source.dtype in FACTORS else source.dtype
        return PlannedTensor(name, self._output_dtype(dtype, name), None, source)

    def _count(self, group: list[str], number: int, keys: Iterable[str]) -> None:
        group.extend(f"{number}: {key}" for key in keys)

    def _complain(self, number: int, target: str, keys: Iterable[str], reason: str = "") -> None:
        self._count(self.accounting.unmatched, number, keys)
        self._unmatched.add(number, target, reason or f"{target}: no such tensor in the base")

    def _output_dtype(self, dtype: str, name: str) -> str:
        wanted = self.options.stored_dtype
        is_converted = wanted and dtype in FLOATS and not self.packed.keeps(name)
        return wanted if wanted and is_converted else dtype

    def _main_dtype(self) -> str:
        """The float dtype that most of the base's bytes have, to which new tensors are rounded."""
        sizes: dict[str, int] = {}
        for name, stored in self.base.tensors.items():
            if stored.dtype in FLOATS and not self.packed.keeps(name):
                sizes[stored.dtype] = sizes.get(stored.dtype, 0) + stored.nbytes
        return max(sizes, key=lambda dtype: sizes[dtype], default="F32")


def _tells_orientation(update: Update) -> bool:
    """Whether an update may be stored transposed and has a shape that shows whether it is."""
    shape = update.delta.shape
    return update.fan_in_fan_out is not None and shape[0] != shape[1]
