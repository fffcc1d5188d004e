"""Describes an adapter by its headers alone, by its factors, and in comparison with a base."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, final

from loratools.adapter import Adapter, Note, Update
from loratools.deltas import Delta, parameters_of
from loratools.deltas.lora import Scaling
from loratools.errors import counted, listing
from loratools.idle import by_reason
from loratools.io.computed import stored_elements
from loratools.io.dtypes import FACTORS, torch_name
from loratools.io.source import Source
from loratools.io.values import is_finite
from loratools.names.both_ends import notes_on_both_ends
from loratools.names.grouping import pattern_of

if TYPE_CHECKING:
    from loratools.describing.energy import BlockEnergy
    from loratools.describing.spectrum import TargetSpectrum


@final
@dataclass(frozen=True)
class TargetGroup:
    """Equal updates of targets whose names differ only in numbers.

    `rank`, `alpha`, `scaling`, `rule` and `alpha_from` are None for a kind that holds no LoRA.
    """

    pattern: str
    kind: str
    shape: tuple[int, ...]
    rank: int | None
    alpha: float | None
    scaling: float | None
    rule: str | None
    alpha_from: str | None
    count: int
    parameters: int


@final
@dataclass(frozen=True)
class Coverage:
    """The part of a base that an adapter changes, and whether the two can be merged.

    Attributes:
        base: the name of the base.
        touched: the number of the base's matrices that the adapter changes.
        matrices: the number of all matrices of the base.
        untouched: the number of matrices that no update changes, by pattern of their names.
        refusal: the error of merging them, if it is refused.
        accounting: the numbers of the adapter's tensors that are applied, and of all.
        tied: whether the base's embedding and head are one tensor.
        another_base: a note if the adapter names another base.
        recognised: the models of the base and whose names they have, in words, if they are known.
        packed: the number of weights that the base stores packed, by format; empty if it is
            refused.
        files: remarks on which of the base's files were read.
    """

    base: str
    touched: int
    matrices: int
    untouched: Mapping[str, int]
    refusal: str | None
    accounting: Mapping[str, int]
    tied: bool
    another_base: str | None
    recognised: str | None = None
    packed: Mapping[str, int] = field(default_factory=dict)
    files: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Inspection:
    """The description of an adapter.

    `spectra`, `blocks` and `coverage` are None unless they were asked for.

    `nonfinite` are the stored tensors with a NaN or an infinity. `idle` are the updates that change
    nothing, whatever the base, with the reason. `warnings` are notes on what other programs do with
    the adapter.
    """

    adapter: Adapter
    groups: tuple[TargetGroup, ...]
    spectra: "tuple[TargetSpectrum, ...] | None" = None
    blocks: "tuple[BlockEnergy, ...] | None" = None
    nonfinite: tuple[str, ...] = ()
    idle: Mapping[str, str] = field(default_factory=dict)
    coverage: Coverage | None = None
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
                yield Note("refusal", f"would not merge: {coverage.refusal}")
            if coverage.another_base is not None:
                yield Note("info", coverage.another_base)
            yield from (Note("info", f"{coverage.base}: {said}") for said in coverage.files)
        is_tied = None if coverage is None else coverage.tied
        yield from notes_on_both_ends(self.adapter.updates, is_tied)

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
    return Inspection(adapter, tuple(_group(adapter.updates)))


def find_nonfinite(adapter: Adapter) -> tuple[str, ...]:
    """The names of the stored tensors that hold a NaN or an infinity."""
    return tuple(
        key
        for source in _sources(adapter)
        if source.dtype in FACTORS and not is_finite(source.read())
        for key in source.keys
    )


@final
@dataclass
class _Tally:
    """The first of a group of equal updates, with the numbers of updates and of their elements."""

    delta: Delta
    count: int = 0
    parameters: int = 0


def _group(updates: Mapping[str, Update]) -> Iterator[TargetGroup]:
    tallies: dict[tuple[object, ...], _Tally] = {}
    numbers: dict[Scaling | None, int] = {}
    # By identity: most updates share one scaling object, and hashing it each time is slow.
    known: dict[int, int] = {}
    for target, update in updates.items():
        delta = update.delta
        rank, scaling = _rank_and_scaling(delta)
        number = known.get(id(scaling))
        if number is None:
            number = known[id(scaling)] = numbers.setdefault(scaling, len(numbers))
        key = (pattern_of(target), delta.kind, delta.shape, rank, number)
        tally = tallies.get(key)
        if tally is None:
            tally = tallies[key] = _Tally(delta)
        tally.count += 1
        tally.parameters += parameters_of(delta)
    for (pattern, *_), tally in tallies.items():
        rank, scaling = _rank_and_scaling(tally.delta)
        yield TargetGroup(
            pattern=str(pattern),
            kind=tally.delta.kind,
            shape=tally.delta.shape,
            rank=rank,
            alpha=scaling.alpha if scaling else None,
            scaling=scaling.value if scaling else None,
            rule=scaling.rule if scaling else None,
            alpha_from=scaling.origin if scaling else None,
            count=tally.count,
            parameters=tally.parameters,
        )


def _rank_and_scaling(delta: Delta) -> tuple[int | None, Scaling | None]:
    """The rank of a change's factors, and its scaling; None for a change that is stored whole.

    The rank of a product of several factors is the one that alpha is divided by, and not that of
    its exact factors, if it has any.
    """
    lora, scaling = delta.low_rank, delta.scaling
    if lora is not None:
        return lora.rank, lora.scaling
    is_whole = delta.additive is not None and delta.factored() is None
    if scaling is None or is_whole:
        return None, None
    return scaling.rank, scaling


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
