"""How a merge plan is made: one adapter after another onto the base's tensors.

Headers are read, and a few tensors that an adapter stores twice; nothing is written.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import final

from loratools.adapter import Adapter, ReplacedRows, Replacement, Update
from loratools.deltas import keys_of
from loratools.deltas.rows import Rows
from loratools.errors import FormatError, MatchError, UnsupportedError, shorten
from loratools.io.checkpoint import Checkpoint
from loratools.io.dtypes import FACTORS, FLOATS
from loratools.io.source import Source
from loratools.io.values import same_bytes
from loratools.merging.announced import Planned, lost_head, missing, odd
from loratools.merging.heads import plan_head
from loratools.merging.overlap import refuse_overlap
from loratools.merging.plan import Change, MergeOptions, MergePlan, PlannedTensor
from loratools.names.bases import another_base
from loratools.names.conv1d import square_is_transposed
from loratools.names.globs import Selection
from loratools.names.matching import BaseNames, Match
from loratools.names.quantised import quantisation
from loratools.names.tied import TiedHead, find_used_head, is_embedding


def plan_merge(
    base: Checkpoint,
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    options: MergeOptions,
) -> MergePlan:
    """Plan `base + Σ weight · adapter`.

    Raises:
        MatchError: an update has no counterpart in the base, or one of another shape; or a glob
            matches nothing.
        UnsupportedError: the base is quantised, or an adapter cannot be merged exactly.
        FormatError: two adapters replace one tensor by different ones.
    """
    planner = Planner(base, options)
    planner.refuse_quantised()
    for number, (adapter, weight) in enumerate(zip(adapters, weights, strict=True)):
        planner.add(number, adapter, weight)
    planner.finish()
    classifier = plan_head(base, adapters, planner.tensors)
    return MergePlan(
        base=base,
        adapters=tuple(adapters),
        weights=tuple(weights),
        tensors=classifier.tensors,
        applied=tuple(planner.applied),
        skipped=tuple(planner.skipped),
        unmatched=tuple(planner.unmatched),
        inert=planner.inert,
        untied=planner.untied,
        vocabulary=planner.vocabulary,
        head=classifier.head,
        notes=(*planner.notes, *classifier.notes),
        warnings=classifier.warnings,
    )


@final
class Planner:
    """A merge plan in the making; its fields are those of `MergePlan`."""

    def __init__(self, base: Checkpoint, options: MergeOptions) -> None:
        self.base = base
        self.options = options
        self.tensors = {
            name: PlannedTensor(name, self._output_dtype(stored.dtype), stored, stored)
            for name, stored in base.tensors.items()
        }
        self.applied: list[str] = []
        self.skipped: list[str] = []
        self.unmatched: list[str] = []
        self.inert: dict[str, str] = {}
        self.notes: list[str] = []
        self.untied: TiedHead | None = None
        self.vocabulary: tuple[int, int] | None = None
        self._complaints: list[str] = []
        self._selection = Selection(options.only, options.skip)
        self._tied = find_used_head(base.tensors, base.config)
        # Replacements change shapes, and a tied head can be named though it is not stored.
        self._shapes = {name: stored.shape for name, stored in base.tensors.items()}
        if self._tied is not None:
            self._shapes.setdefault(self._tied.head, self._shapes[self._tied.embedding])
        self._names = BaseNames(self._shapes)

    def refuse_quantised(self) -> None:
        """Refuse a base whose stored numbers are codes."""
        dtypes = {name: stored.dtype for name, stored in self.base.tensors.items()}
        reason = quantisation(dtypes, self.base.config)
        if reason is not None:
            raise UnsupportedError(f"{self.base.where}: {reason}")

    def add(self, number: int, adapter: Adapter, weight: float) -> None:
        """All of one adapter: replaced tensors first, then updates, then single rows."""
        adapter.check_usable()
        if note := another_base(adapter, self.base):
            self.notes.append(f"{adapter.where}: {note}")
        for copy in adapter.copies:
            if not same_bytes(copy.source, copy.of):
                raise FormatError(
                    f"{adapter.where}: {copy.source.keys[0]} and {copy.of.keys[0]} should be "
                    f"the same and are not"
                )
            self.inert[f"{number}: {copy.source.keys[0]}"] = f"repeats {copy.of.keys[0]}"
        self.inert |= {f"{number}: {key}": reason for key, reason in adapter.inert.items()}
        for target, replacement in adapter.replaced.items():
            self._replace(number, adapter, target, replacement, weight)
        self._add_updates(number, adapter, weight)
        for target, rows in adapter.rows.items():
            self._set_rows(number, adapter, target, rows, weight)
        self._refuse_missing(number, adapter)

    def finish(self) -> None:
        """Check what is left over, and settle what embedding and head now have in common."""
        self._selection.check_used(self.base.tensors)
        if self._complaints and not self.options.allow_unmatched:
            more = len(self._complaints) - 1
            rest = f" (and {more} more without a match)" if more else ""
            raise MatchError(f"{self.base.where}: {self._complaints[0]}{rest}")
        self.notes.extend(f"left out: {complaint}" for complaint in self._complaints)
        if not self.applied:
            raise MatchError(f"{self.base.where}: no adapter tensor is left to apply")
        if self._tied is not None:
            self._settle_tied(self._tied)
        self._compare_vocabulary()

    def _replace(
        self, number: int, adapter: Adapter, target: str, replacement: Replacement, weight: float
    ) -> None:
        source = replacement.source
        match = self._names.match_name(target)
        name = match.name if match else target
        if not self._selection.takes(target, name):
            self._count(self.skipped, number, source.keys)
            return
        if match is None and not replacement.is_trained:
            self._complain(number, source.keys, f"{target}: no such tensor in the base")
            return
        if replacement.is_trained and weight != 1:
            raise UnsupportedError(
                f"{adapter.where}: {shorten(target)} replaces the base's tensor whole, which has "
                f"no weight of {weight:g}; leave it out with --skip {target!r}, or use weight 1"
            )
        self._count(self.applied, number, source.keys)
        planned = self._planned(name, source)
        if not replacement.is_trained and planned.base and _is_the_base(source, planned.base):
            return
        self._check_replacement(adapter, target, planned, source)
        self.tensors[name] = replace(planned, origin=source, is_trained=replacement.is_trained)
        self._shapes[name] = source.shape

    def _check_replacement(
        self, adapter: Adapter, target: str, planned: PlannedTensor, source: Source
    ) -> None:
        base = planned.base
        is_rounded = source.dtype in FACTORS and planned.dtype in FLOATS
        if source.dtype != planned.dtype and not is_rounded:
            raise FormatError(
                f"{adapter.where}: {shorten(target)} is {source.dtype}, and {planned.dtype} in "
                f"the base"
            )
        is_replaced = planned.origin is not base and planned.origin is not source
        if planned.changes or (is_replaced and not same_bytes(planned.origin, source)):
            raise FormatError(
                f"{adapter.where}: {shorten(target)} would replace what an adapter before it "
                f"has changed"
            )
        if is_replaced:
            return
        if base is None:
            self.notes.append(f"{planned.name}: new, the base has no such tensor")
        elif base.shape != source.shape and not is_embedding(planned.name):
            self.notes.append(
                f"{planned.name}: the shape changes from {list(base.shape)} to {list(source.shape)}"
            )

    def _add_updates(self, number: int, adapter: Adapter, weight: float) -> None:
        matched = []
        for target, update in adapter.updates.items():
            match = self._match(number, target, update)
            if match is not None:
                matched.append((target, update, match))
        swap_square = square_is_transposed(
            claimed=any(update.fan_in_fan_out for _, update, _ in matched),
            non_square=(m.is_transposed for _, u, m in matched if _tells_orientation(u)),
            config=self.base.config,
        )
        for target, update, match in matched:
            if not self._selection.takes(target, match.name):
                self._count(self.skipped, number, keys_of(update.delta))
                continue
            delta, is_transposed = update.delta, match.is_transposed
            if update.fan_in_fan_out is not None and delta.shape[0] == delta.shape[1]:
                is_transposed = swap_square
            if is_transposed:
                delta = delta.transposed()
            change = Change(number, target, delta, weight, match.renaming, is_transposed)
            self._change(adapter, match.name, change)

    def _refuse_missing(self, number: int, adapter: Adapter) -> None:
        """Refuse an adapter that has lost what this base shows was trained; note what is odd."""
        planned = Planned(self.tensors, self._tied, number, self._selection.takes)
        for lost in (*missing(adapter.announced, planned), *lost_head(adapter, self.base, planned)):
            raise UnsupportedError(f"{adapter.where}: {lost}")
        self.notes.extend(f"{adapter.where}: {line}" for line in odd(adapter.announced, planned))

    def _match(self, number: int, target: str, update: Update) -> Match | None:
        """The base tensor of an update; None where it has none, and a complaint if it is wanted."""
        try:
            return self._names.match(
                target,
                update.delta.shape,
                may_transpose=update.fan_in_fan_out is not None,
            )
        except MatchError as error:
            if self._selection.takes(target):
                self._complain(number, keys_of(update.delta), str(error))
            else:
                self._count(self.skipped, number, keys_of(update.delta))
            return None

    def _set_rows(
        self, number: int, adapter: Adapter, target: str, rows: ReplacedRows, weight: float
    ) -> None:
        match = self._names.match_name(target)
        if not self._selection.takes(target, match.name if match else target):
            self._count(self.skipped, number, rows.rows.keys)
        elif match is None:
            self._complain(number, rows.rows.keys, f"{target}: no such tensor in the base")
        else:
            delta = Rows(rows.indices, rows.rows, self._shapes[match.name])
            change = Change(
                number, target, delta, weight, match.renaming, is_transposed=False, rows=delta
            )
            refuse_overlap(adapter, self._planned(match.name), change, delta)
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
            if other.adapter == change.adapter and other.target != change.target:
                raise MatchError(
                    f"{adapter.where}: {shorten(other.target)} and {shorten(change.target)} both "
                    f"mean {name}"
                )
        self._count(self.applied, change.adapter, keys_of(change.delta))
        self.tensors[name] = replace(planned, changes=(*planned.changes, change))

    def _planned(self, name: str, source: Source | None = None) -> PlannedTensor:
        """The plan for a tensor so far; a tied head that is not stored starts as the embedding."""
        if name in self.tensors:
            return self.tensors[name]
        if self._tied is not None and name == self._tied.head:
            embedding = self.tensors[self._tied.embedding]
            assert embedding.base is not None, name
            return PlannedTensor(name, embedding.dtype, embedding.base, embedding.base)
        assert source is not None, name
        dtype = self._main_dtype() if source.dtype in FACTORS else source.dtype
        return PlannedTensor(name, self._output_dtype(dtype), None, source)

    def _count(self, group: list[str], number: int, keys: Iterable[str]) -> None:
        group.extend(f"{number}: {key}" for key in keys)

    def _complain(self, number: int, keys: Iterable[str], complaint: str) -> None:
        self._count(self.unmatched, number, keys)
        self._complaints.append(complaint)

    def _output_dtype(self, dtype: str) -> str:
        wanted = self.options.stored_dtype
        return wanted if wanted and dtype in FLOATS else dtype

    def _main_dtype(self) -> str:
        """The float dtype that most of the base is stored in: what a new tensor is rounded to."""
        sizes: dict[str, int] = {}
        for stored in self.base.tensors.values():
            if stored.dtype in FLOATS:
                sizes[stored.dtype] = sizes.get(stored.dtype, 0) + stored.nbytes
        return max(sizes, key=lambda dtype: sizes[dtype], default="F32")

    def _settle_tied(self, tied: TiedHead) -> None:
        """Keep embedding and head one tensor while they are equal, else store both.

        As the adapter was trained: a LoRA on one end does not act at the other, an embedding that
        grew before training grew at both ends, and trained tokens act at both.
        """
        ends = (self.tensors.get(tied.embedding), self.tensors.get(tied.head))
        if not any(end is not None and end.is_changed for end in ends):
            return
        self._share_resized(tied)
        embedding, head = self.tensors[tied.embedding], self.tensors.get(tied.head)
        head = head or self._untouched_head(tied, embedding)
        rows = tuple(change for change in embedding.changes if change.rows is not None)
        if rows and all(change.rows is None for change in head.changes):
            head = replace(head, changes=(*rows, *head.changes))
        if embedding.changes == head.changes and same_bytes(embedding.origin, head.origin):
            if tied.stored:
                self.tensors[tied.head] = head
            else:
                self.tensors.pop(tied.head, None)
            return
        if not tied.separable:
            raise UnsupportedError(
                f"{self.base.where}: {tied.embedding} is tied to more than a head in this kind of "
                f"model, which cannot store them apart; leave it out with "
                f"--skip {tied.embedding!r}"
            )
        self.tensors[tied.head] = head
        self.untied = tied
        self.notes.append(
            f"{tied.head}: stored by itself from now on (tie_word_embeddings becomes false), "
            f"because it and {tied.embedding} now differ"
        )

    def _untouched_head(self, tied: TiedHead, embedding: PlannedTensor) -> PlannedTensor:
        origin = embedding.base if embedding.is_trained else embedding.origin
        assert origin is not None, tied.embedding
        return PlannedTensor(tied.head, embedding.dtype, embedding.base, origin)

    def _share_resized(self, tied: TiedHead) -> None:
        for one, other in ((tied.embedding, tied.head), (tied.head, tied.embedding)):
            grown, follower = self.tensors.get(one), self.tensors.get(other)
            if grown is None or follower is None or grown.is_trained:
                continue
            if grown.origin is not grown.base and follower.origin is follower.base:
                self.tensors[other] = replace(follower, origin=grown.origin)

    def _compare_vocabulary(self) -> None:
        """Note how many tokens there are before and after; all tables must agree on it."""
        for name, planned in self.tensors.items():
            if planned.base is None or not is_embedding(name):
                continue
            if planned.base.shape[0] != planned.shape[0]:
                self.vocabulary = (planned.base.shape[0], planned.shape[0])
        for name, planned in self.tensors.items():
            if self.vocabulary and is_embedding(name) and planned.shape[0] == self.vocabulary[0]:
                raise UnsupportedError(
                    f"{name}: has {planned.shape[0]} rows, but the vocabulary grows to "
                    f"{self.vocabulary[1]} and the adapter brings no rows for it"
                )


def _tells_orientation(update: Update) -> bool:
    """Whether the shape of the weight shows which way it is stored."""
    shape = update.delta.shape
    return update.fan_in_fan_out is not None and shape[0] != shape[1]


def _is_the_base(source: Source, base: Source) -> bool:
    from loratools.io.rounding import rounds_to

    return rounds_to(source, base)
