"""What a merge did, tensor by tensor: for people as text, for programs as one JSON object."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

from loratools.errors import counted, listing
from loratools.idle import by_reason
from loratools.io.dtypes import BITS, torch_name
from loratools.merging.effects import Idle, unmoved
from loratools.merging.plan import Change, MergePlan, PlannedTensor
from loratools.merging.taken_back import TakenBack
from loratools.merging.taking_out import by_dtype, taken_back_notes
from loratools.merging.words import actions
from loratools.names.averaged import averaged_note
from loratools.showing.parts import Column, Part, Table, aside, human_size, numbers
from loratools.showing.shown import Shown
from loratools.typed import option, worded

if TYPE_CHECKING:
    from loratools.merging.fidelity import Fidelity

#: A share of the update lost to rounding above which the report warns.
WORRYING_LOSS = 0.2


@final
@dataclass(frozen=True, repr=False)
class MergeReport(Shown):
    """The account of a merge, or of the plan of one (`fidelity` is then empty).

    Attributes:
        plan: what was to be done to each tensor.
        output: the path of the result; None for a dry run.
        files: the sizes of the output's weight files in bytes, by name.
        fidelity: by output tensor, how much of its update survived the rounding, if it is finite.
        left_out: files and folders of the base that do not belong to its weights.
        is_overlay: whether the output has only what differs from the base.
        is_stochastic: whether results are rounded stochastically.
        is_in_place: whether the result is written into the base's own files, in their dtypes.
        beside: notes on the files that are written beside the weights.
        idle: parts of adapters that change nothing.
    """

    plan: MergePlan
    output: str | None
    files: Mapping[str, int]
    fidelity: "Mapping[str, Fidelity]"
    left_out: Sequence[str]
    is_overlay: bool = False
    is_stochastic: bool = False
    is_in_place: bool = False
    beside: Sequence[str] = ()
    idle: Sequence[Idle] = ()

    @property
    def total(self) -> "Fidelity | None":
        """The fidelity over all changed tensors; None if nothing was measured."""
        parts = [part for part in self.fidelity.values() if part.intended]
        return sum(parts[1:], start=parts[0]) if parts else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on what was odd about tensors or other files, and how it was decided."""
        averaged = averaged_note(self.plan.base.tensors, "stay as they are")
        blocks = [
            f"{adapter.where}: block weights: {blocks}"
            for adapter, _, blocks in self.plan.adapters_weighted
            if blocks.by_block
        ]
        back = taken_back_notes(self.taken_back)
        return (*self.plan.base.notes, *averaged, *blocks, *self.plan.notes, *back, *self.beside)

    @property
    def taken_back(self) -> Mapping[str, TakenBack]:
        """How many elements out of which an update is taken are not what they were, by dtype."""
        counts = {name: fidelity.taken_back for name, fidelity in self.fidelity.items()}
        return by_dtype(self.plan.changed, counts)

    @property
    def equals_base(self) -> bool:
        """Whether all weights are the base's, apart from a conversion to another dtype."""
        # A head that is stored by itself from now on may be the base's, under another name.
        return all(
            tensor.name in self._unmoved or (tensor.origin is tensor.base and not tensor.changes)
            for tensor in self.plan.changed
        )

    @cached_property
    def _unmoved(self) -> frozenset[str]:
        return unmoved(self.plan, self.idle)

    @cached_property
    def _without_effect(self) -> Mapping[str, str]:
        """The reason why an adapter tensor changes nothing, by `adapter number: key`."""
        return {key: part.reason for part in self.idle for key in part.keys}

    @property
    def accounting(self) -> str:
        """The sentence that accounts for every tensor."""
        plan = self.plan
        applied = len(plan.accounting.applied) - len(self._without_effect)
        changed = len(plan.changed) - len(self._unmoved)
        converted = sum(
            not tensor.is_unchanged and not tensor.is_changed for tensor in plan.tensors.values()
        )
        unchanged = len(plan.tensors) - changed - converted
        first = (
            f"{applied} of {counted(plan.accounting.total, 'adapter tensor')} applied to "
            f"{counted(changed, 'weight')}; {counted(unchanged, 'base tensor')} unchanged"
        )
        if not plan.adapters:
            first = f"{counted(unchanged, 'tensor')} copied, {self._overlaid} of all from overlays"
        parts = [f"{converted} converted to another dtype"] if converted else []
        return "; ".join([first, *parts, *self._not_applied()])

    def _not_applied(self) -> Iterator[str]:
        """How many tensors of the adapters are not applied, for each reason."""
        found = self.plan.accounting
        if without := len(self._without_effect):
            yield counted(
                without, "adapter tensor changes nothing", "adapter tensors change nothing"
            )
        for keys, what in (
            (found.skipped, "skipped as asked"),
            (found.weightless, "left out by block weights"),
            (found.unmatched, "left out without a match"),
            (found.inert, "without effect on weights"),
        ):
            if keys:
                yield f"{counted(len(keys), 'adapter tensor')} {what}"

    @property
    def packed_line(self) -> str | None:
        """What was left packed, in words; None for a base without packed weights."""
        parts = [
            f"{counted(weights, 'weight')} in {format_} ({counted(tensors, 'tensor')})"
            for format_, (weights, tensors) in self.plan.packed.counts.items()
        ]
        return f"left packed: {', '.join(parts)}" if parts else None

    @property
    def _overlaid(self) -> int:
        """The number of the base's tensors that are in files of its overlays."""
        base = self.plan.base
        own = {shard.file for shard in base.shards}
        return sum(tensor.file not in own for tensor in base.tensors.values())

    @property
    def fidelity_line(self) -> str | None:
        """The total fidelity in words; None if nothing was measured."""
        total = self.total
        if total is None:
            return None
        error = f"{100 * total.relative_error:.3g}%"
        if self.is_stochastic:
            return (
                f"fidelity: {100 * total.kept:.3g}% of the update kept, under noise of {error}, "
                f"cosine {total.cosine:.6f}"
            )
        return f"fidelity: {error} of the update lost to rounding, cosine {total.cosine:.6f}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about a result that the user is unlikely to want."""
        return (*self._nothing(), *self._losses())

    def _nothing(self) -> Iterator[str]:
        if self.equals_base and self.plan.adapters:
            verb = "equals" if self.output is not None else "would equal"
            yield f"the output {verb} the base: no update changes a weight"
        yield from by_reason((part.label, part.reason) for part in self.idle)

    def _losses(self) -> tuple[str, ...]:
        total = self.total
        # Stochastic rounding moves more numbers, and further, so that the mean is right.
        if self.is_stochastic or total is None or total.relative_error <= WORRYING_LOSS:
            return self.plan.warnings
        is_narrow = any(BITS[self.plan.tensors[name].dtype] < 32 for name in self.fidelity)
        wider = (
            f"write {option('dtype', 'float32')}, " if is_narrow and not self.is_in_place else ""
        )
        return (
            *self.plan.warnings,
            f"{total.relative_error:.0%} of the update is lost to rounding: it is too weak for "
            f"the dtype of the weights; {wider}use "
            f"{worded('--rounding stochastic', 'WriteOptions(seed=0)')}, or keep the adapter "
            f"apart",
        )

    def rows(self) -> Iterator[tuple[PlannedTensor, str]]:
        """Every changed tensor, with a few words on what was done to it."""
        for tensor in self.plan.changed:
            yield tensor, ", ".join(actions(self.plan, tensor))

    def shown(self, *, verbose: bool = False) -> Iterator[Part]:
        """What became of every tensor, and what was written."""
        yield from self.account(verbose=verbose)
        if self.output is None:
            yield "dry run: nothing written"
        else:
            what = ", an overlay of the base" if self.is_overlay else ""
            yield f"written: {self.output} ({human_size(sum(self.files.values()))}){what}"

    def account(self, *, verbose: bool) -> Iterator[Part]:
        """What became of every tensor, wherever the result is; a row for each if `verbose`."""
        for adapter in self.plan.adapters:
            for note in (*adapter.notes, *adapter.notes_beside):
                yield aside("Note", f"{adapter.where}: {note.message}")
        yield from (aside("Note", text) for text in self.notes)
        if self.left_out:
            yield aside("Note", f"not copied: {listing(self.left_out)}")
        if verbose and self.plan.changed:
            yield self._table()
        if self.plan.recognised is not None:
            yield f"base: {self.plan.recognised}"
        yield self.accounting
        yield from (line for line in (self.packed_line, self.fidelity_line) if line is not None)
        yield from (aside("Warning", text) for text in self.warnings)

    def _table(self) -> Table:
        """A row for each changed tensor."""
        idle = {part.name: f": {part.reason}" for part in self.idle}
        rows = [(tensor.name, words) for tensor, words in self.rows()]
        lost = [self.fidelity.get(name) for name, _ in rows]
        columns = [
            Column("weight", [name for name, _ in rows]),
            Column("change", [words + idle.get(name, "") for name, words in rows]),
        ]
        if any(lost):
            cells = (f"{100 * part.relative_error:.3g}" if part else "" for part in lost)
            columns.append(numbers("lost %", cells, "share of the update lost to rounding"))
        return Table(columns)

    def to_json(self) -> dict[str, Any]:
        """The documented object of `merge --json`."""
        plan, total = self.plan, self.total
        return {
            "output": self.output,
            "base": plan.base.where,
            "recognised": plan.recognised,
            "adapters": [
                {
                    "path": adapter.where,
                    "weight": weight,
                    "block_weights": dict(blocks.by_block),
                    "kinds": list(adapter.kinds),
                    "alpha_from": list(adapter.alpha_from),
                    "notes": [asdict(n) for n in (*adapter.notes, *adapter.notes_beside)],
                }
                for adapter, weight, blocks in plan.adapters_weighted
            ],
            "accounting": self._counts(),
            "tensors": [self._row(tensor) for tensor in plan.changed],
            "packed": [
                {"format": format_, "weights": weights, "tensors": tensors}
                for format_, (weights, tensors) in plan.packed.counts.items()
            ],
            "fidelity": _fidelity(total),
            "taken_back": [
                {"dtype": name, **asdict(part)} for name, part in self.taken_back.items()
            ],
            "equals_base": self.equals_base,
            "overlay": self.is_overlay,
            "files": dict(self.files),
            "files_left_out": list(self.left_out),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }

    def _counts(self) -> dict[str, object]:
        """How many tensors there are of each sort, or which."""
        plan = self.plan
        return {
            "adapter_tensors": plan.accounting.total,
            "applied": len(plan.accounting.applied) - len(self._without_effect),
            "changing_nothing": dict(self._without_effect),
            "skipped": list(plan.accounting.skipped),
            "weightless": list(plan.accounting.weightless),
            "unmatched": list(plan.accounting.unmatched),
            "inert": dict(plan.accounting.inert),
            "weights_changed": len(plan.changed) - len(self._unmoved),
            "base_tensors_unchanged": sum(
                tensor.is_unchanged or name in self._unmoved
                for name, tensor in plan.tensors.items()
            ),
        }

    def _row(self, tensor: PlannedTensor) -> dict[str, object]:
        return {
            "name": tensor.name,
            "dtype": torch_name(tensor.dtype),
            "shape": list(tensor.shape),
            "replaced": tensor.origin is not tensor.base,
            "changes": [_change(change) for change in tensor.changes],
            "fidelity": _fidelity(self.fidelity.get(tensor.name)),
        }


def _change(change: Change) -> dict[str, object]:
    return {
        "adapter": change.adapter,
        "target": change.target,
        "kind": change.delta.kind,
        "strength": change.strength * change.block_weight,
        "renaming": change.renaming,
        "transposed": change.is_transposed,
    }


def _fidelity(fidelity: "Fidelity | None") -> dict[str, float] | None:
    if fidelity is None or not fidelity.intended:
        return None
    return {
        "relative_error": fidelity.relative_error,
        "cosine": fidelity.cosine,
        "kept": fidelity.kept,
    }
