"""Describes an adapter by its headers alone, by its factors, and in comparison with a base."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, final

from loratools.adapter import Adapter
from loratools.describing.fields import adapter_fields, coverage_fields
from loratools.describing.groups import TargetGroup, groups_of, single
from loratools.describing.tables import block_table, group_table, spectrum_table
from loratools.errors import counted, escaped, listing, shorten
from loratools.idle import by_reason
from loratools.io.computed import stored_elements
from loratools.io.dtypes import FACTORS, torch_name
from loratools.io.source import Source
from loratools.io.values import is_finite
from loratools.names.both_ends import notes_on_both_ends
from loratools.names.meant_for import meant_for
from loratools.parts import Note
from loratools.showing.parts import Part
from loratools.showing.shown import Shown

if TYPE_CHECKING:
    from loratools.describing.coverage import Coverage
    from loratools.describing.energy import BlockEnergy
    from loratools.describing.spectrum import TargetSpectrum


#: What a note is called, by its severity.
_LABELS = {"info": "Note", "problem": "Problem", "refusal": "Refused"}


@final
@dataclass(frozen=True, repr=False)
class Inspection(Shown):
    """The description of an adapter.

    Attributes:
        adapter: the adapter.
        groups: its updates, grouped by names that differ only in numbers.
        spectra: the singular values of each update; None unless they were asked for.
        blocks: the energy in each block of the model; None unless it was asked for.
        nonfinite: the names of stored tensors with a NaN or an infinity.
        idle: the updates that change nothing, whatever the base, with the reason.
        coverage: what it changes of the base; None without one.
        warnings: notes on what other programs do with the adapter.
    """

    adapter: Adapter
    groups: tuple[TargetGroup, ...]
    spectra: "tuple[TargetSpectrum, ...] | None" = None
    blocks: "tuple[BlockEnergy, ...] | None" = None
    nonfinite: tuple[str, ...] = ()
    idle: Mapping[str, str] = field(default_factory=dict)
    coverage: "Coverage | None" = None
    warnings: tuple[Note, ...] = ()

    @property
    def parameters(self) -> int:
        """The number of elements of the tensors that make up updates."""
        return sum(group.parameters for group in self.groups)

    @property
    def replaced_parameters(self) -> int:
        """The number of elements of whole tensors and single rows that replace the base's."""
        adapter = self.adapter
        wholes = [replacement.source for replacement in adapter.replaced.values()]
        return sum(map(stored_elements, [*wholes, *(rows.rows for rows in adapter.rows.values())]))

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes of the adapter's tensors, as torch names them."""
        stored = dict.fromkeys([source.dtype for source in _sources(self.adapter)])
        return tuple(dict.fromkeys(map(torch_name, stored)))

    @property
    def notes(self) -> tuple[Note, ...]:
        """All notes on the adapter: on its files, its values, and the base."""
        adapter = self.adapter
        found = (*adapter.notes, *adapter.notes_beside)
        return (*found, *self.warnings, *self._value_notes(), *self._base_notes())

    @property
    def is_sound(self) -> bool:
        """Whether all notes are mere information: the result of `--check`."""
        return _are_sound(self.notes)

    def _value_notes(self) -> Iterator[Note]:
        if self.spectra is None:
            return
        if self.nonfinite:
            yield Note("refusal", f"holds NaNs or infinities: {listing(self.nonfinite)}")
        elif large := [s.target for s in self.spectra if s.spectrum is None]:
            yield Note("problem", f"too large to be measured: {listing(large)}")
        lines = by_reason(self.idle.items())
        if lines and len(self.idle) == len(self.adapter.updates):
            yield Note("problem", f"no update changes anything: {'; '.join(lines)}")
        else:
            # Information only: trainers also store layers that a model did not use, and that were
            # therefore never trained.
            yield from (Note("info", line) for line in lines)
        norms = [s.target for s in self.spectra if s.is_zero and s.target not in self.idle]
        if norms:
            yield Note(
                "info",
                f"{counted(len(norms), 'update has', 'updates have')} a product of zero, and a "
                f"weight is changed by what is stored beside it: {listing(norms, 3)}",
            )

    def _base_notes(self) -> Iterator[Note]:
        coverage = self.coverage
        if coverage is not None:
            if coverage.refusal is not None:
                # What is shown of one of several begins with its name already.
                why = coverage.refusal.removeprefix(f"{escaped(self.adapter.where)}: ")
                yield Note("refusal", f"would not merge: {why}")
            if coverage.another_base is not None:
                yield Note("info", coverage.another_base)
            yield from (Note("info", f"{coverage.base}: {said}") for said in coverage.files)
        is_tied = None if coverage is None else coverage.tied
        yield from notes_on_both_ends(self.adapter.updates, is_tied)

    def __repr__(self) -> str:
        sound = "sound" if self.is_sound else "with problems"
        kinds = ", ".join(self.adapter.kinds) or "whole tensors only"
        targets = counted(sum(group.count for group in self.groups), "target")
        where = escaped(shorten(self.adapter.where))
        return f"<Inspection of {where}: {kinds}, {targets}, {sound}>"

    def shown(self, *, verbose: bool = False, spectrum: bool = True) -> Iterator[Part]:
        """Fields and tables; every target instead of groups, if `verbose`.

        `spectrum` is whether spectra are shown, where they were measured.
        """
        yield self.adapter.where
        yield adapter_fields(self.adapter, self.groups, self.dtypes, self.replaced_parameters)
        if self.groups:
            rows = single(self.adapter.updates) if verbose else self.groups
            yield group_table(rows, by_target=verbose)
        if spectrum and self.spectra:
            yield spectrum_table(self.spectra, by_target=verbose)
        if self.blocks:
            yield block_table(self.blocks)
        if self.coverage is not None and self.coverage.refusal is None:
            yield coverage_fields(self.coverage)
        for note in self.notes:
            trap = f" [{note.trap}]" if note.trap else ""
            yield f"{_LABELS[note.severity]}: {note.message}{trap}"

    def faults(self) -> Iterator[str]:
        """A line for each reason why it is not sound, with the adapter's name."""
        where = shorten(self.adapter.where)
        for note in self.notes:
            if note.severity != "info":
                yield f"{_LABELS[note.severity]}: {where}: {note.message}"

    def to_json(self) -> dict[str, Any]:
        """The description as the documented object that `inspect --json` prints."""
        adapter, filed = self.adapter, self.adapter.filed
        notes = self.notes
        return {
            "path": adapter.where,
            "format": None if filed is None else filed.dialect,
            "kinds": list(adapter.kinds),
            "provenance": asdict(adapter.provenance),
            "settings": {} if filed is None else dict(filed.settings),
            "metadata": {} if filed is None else dict(filed.metadata),
            "parameters": self.parameters,
            "replaced_parameters": self.replaced_parameters,
            "bytes": adapter.nbytes,
            "models": list(meant_for(adapter.updates)),
            "dtypes": list(self.dtypes),
            "targets": [asdict(group) for group in self.groups],
            "replaced": [
                {"target": t, "shape": list(r.source.shape), "trained": r.is_trained}
                for t, r in adapter.replaced.items()
            ],
            "rows": [
                {"target": target, "indices": list(rows.indices)}
                for target, rows in adapter.rows.items()
            ],
            "inert": dict(adapter.inert),
            "weights_beside": list(adapter.beside),
            "tokenizer_files": [path.name for path in adapter.companions],
            "modules": None if self.spectra is None else [_spectrum_row(s) for s in self.spectra],
            "blocks": None if self.blocks is None else [asdict(block) for block in self.blocks],
            "base": None if self.coverage is None else asdict(self.coverage),
            "changing_nothing": dict(self.idle),
            "notes": [asdict(note) for note in notes],
            "sound": _are_sound(notes),
        }


def inspect_adapter(adapter: Adapter) -> Inspection:
    """Describe an adapter by its headers."""
    return Inspection(adapter, tuple(groups_of(adapter.updates)))


def find_nonfinite(adapter: Adapter) -> tuple[str, ...]:
    """The names of the stored tensors that hold a NaN or an infinity."""
    return tuple(
        key
        for source in _sources(adapter)
        if source.dtype in FACTORS and not is_finite(source.read())
        for key in source.keys
    )


def _are_sound(notes: Iterable[Note]) -> bool:
    return all(note.severity == "info" for note in notes)


def _sources(adapter: Adapter) -> list[Source]:
    """The tensors of all updates, replacements and rows."""
    return [
        *(source for update in adapter.updates.values() for source in update.delta.sources),
        *(replacement.source for replacement in adapter.replaced.values()),
        *(rows.rows for rows in adapter.rows.values()),
    ]


def _spectrum_row(row: "TargetSpectrum") -> dict[str, object]:
    values = asdict(row.spectrum) if row.spectrum is not None else None
    return {"target": row.target, "spectrum": values, "relative": row.relative}
