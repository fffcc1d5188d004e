"""An adapter whose targets have other names: some are cut into several, or fused to one."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, final

from loratools.adapter import Adapter
from loratools.deltas._fused import Part, divided, fused, has_different_scalings, rows_of_parts
from loratools.deltas.placed import Run
from loratools.errors import LoratoolsError, UnsupportedError, shorten
from loratools.io.source import Source, sliced
from loratools.names.crossing import Piece
from loratools.parts import ReplacedRows, Replacement, Update

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_Value = TypeVar("_Value")


@final
@dataclass(frozen=True)
class Respelled:
    """An adapter with other names.

    Attributes:
        adapter: the adapter.
        names: the new names of each old target.
        folded: the new targets with scalings multiplied into `up`, which is in float64.
        left_out: the new targets of which an update that changes several has zeros.
        refused: old targets, each with the reason why it is nothing under the new names.
    """

    adapter: Adapter
    names: Mapping[str, tuple[str, ...]]
    folded: frozenset[str]
    left_out: tuple[str, ...]
    refused: Mapping[str, str]


def respelled(adapter: Adapter, pieces: Mapping[str, tuple[Piece, ...]]) -> Respelled:
    """Give the targets of an adapter the names of their pieces, and each of these its rows."""
    made = _Respelling(pieces, dict(_misfits(pieces)))
    new = replace(
        adapter,
        updates=made.updates(adapter.updates),
        replaced=made.replaced(adapter.replaced),
        rows=made.rows(adapter.rows),
    )
    names = {
        old: tuple(piece.name for piece in some if piece.name not in made.left_out)
        for old, some in pieces.items()
    }
    return Respelled(new, names, frozenset(made.folded), tuple(made.left_out), made.refused)


class _Owned(NamedTuple, Generic[_Value]):
    """A value for the rows of one piece of an old target."""

    target: str
    value: _Value
    piece: Piece


@final
@dataclass
class _Respelling:
    """The pieces of old targets, and what has been found while new ones were made of them."""

    pieces: Mapping[str, tuple[Piece, ...]]
    refused: dict[str, str]
    left_out: list[str] = field(default_factory=list)
    folded: set[str] = field(default_factory=set)

    def updates(self, updates: Mapping[str, Update]) -> dict[str, Update]:
        """The updates of the new targets."""
        found = {}
        for new, group in self._by_new_name(updates, _cut_update).items():
            parts = [Part(one.value.delta, _from_first(one.piece.runs)) for one in group]
            first = group[0].value
            with self._refusing(one.target for one in group):
                delta = fused(parts, (group[0].piece.rows, *first.delta.shape[1:]))
                found[new] = replace(first, delta=delta)
            if has_different_scalings(parts):
                self.folded.add(new)
        return found

    def replaced(self, replaced: Mapping[str, Replacement]) -> dict[str, Replacement]:
        """The whole tensors of the new targets."""
        found = {}
        for new, group in self._by_new_name(replaced, _cut_tensor).items():
            with self._refusing(one.target for one in group):
                found[new] = _fused_tensor(group)
        return found

    def rows(self, rows: Mapping[str, ReplacedRows]) -> dict[str, ReplacedRows]:
        """The new rows of the new targets, which have to be whole old ones."""
        return {new: group[0].value for new, group in self._by_new_name(rows, _same_rows).items()}

    def _by_new_name(
        self,
        values: Mapping[str, _Value],
        cut: Callable[[_Value, Sequence[Piece]], Sequence[_Value | None]],
    ) -> dict[str, list[_Owned[_Value]]]:
        """The values for the pieces of all targets, by the names of the pieces."""
        found: dict[str, list[_Owned[_Value]]] = {}
        for target, value in values.items():
            if target in self.refused:
                continue
            pieces = self.pieces[target]
            with self._refusing([target]):
                for piece, part in zip(pieces, cut(value, pieces), strict=True):
                    if part is None:
                        self.left_out.append(piece.name)
                    else:
                        found.setdefault(piece.name, []).append(_Owned(target, part, piece))
        return found

    @contextmanager
    def _refusing(self, targets: "Iterable[str]") -> "Iterator[None]":
        """Note an error as the reason why these targets are refused."""
        try:
            yield
        except LoratoolsError as error:
            self.refused |= dict.fromkeys(targets, str(error))


def _misfits(pieces: Mapping[str, tuple[Piece, ...]]) -> "Iterator[tuple[str, str]]":
    """The targets that are, in part, what another one is, or do not fit one: with the reason."""
    owners: dict[str, list[tuple[str, Piece]]] = {}
    for target, some in pieces.items():
        for piece in some:
            for owner, other in owners.get(piece.name, ()):
                if piece.rows != other.rows:
                    yield target, f"has not the size that {shorten(owner)} has beside it"
                elif _overlap(piece.runs, other.runs):
                    yield target, f"would be {shorten(piece.name)}, as {shorten(owner)} is"
            owners.setdefault(piece.name, []).append((target, piece))


def _overlap(one: Sequence[Run], other: Sequence[Run]) -> bool:
    return any(a.at < b.at + b.count and b.at < a.at + a.count for a in one for b in other)


def _range(piece: Piece) -> tuple[int, int]:
    """The rows of a target that a piece has.

    Raises:
        UnsupportedError: they do not follow each other.
    """
    begin = min(run.begin for run in piece.runs)
    end = max(run.begin + run.count for run in piece.runs)
    if end - begin != sum(run.count for run in piece.runs):
        raise UnsupportedError(
            f"{shorten(piece.name)} has rows of it that are apart", tensor=piece.name
        )
    return begin, end


def _from_first(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs, counted from the first of their own rows."""
    first = min(run.begin for run in runs)
    return tuple(run._replace(begin=run.begin - first) for run in runs)


def _cut_update(update: Update, pieces: Sequence[Piece]) -> list[Update | None]:
    deltas = divided(update.delta, [_range(piece) for piece in pieces])
    return [None if delta is None else replace(update, delta=delta) for delta in deltas]


def _cut_tensor(tensor: Replacement, pieces: Sequence[Piece]) -> list[Replacement | None]:
    return [replace(tensor, source=sliced(tensor.source, *_range(piece))) for piece in pieces]


def _same_rows(rows: ReplacedRows, pieces: Sequence[Piece]) -> list[ReplacedRows | None]:
    if len(pieces) > 1 or any(run.begin != run.at for run in pieces[0].runs):
        raise UnsupportedError("single rows of a tensor that has other rows in the other layout")
    return [rows]


def _fused_tensor(group: "Sequence[_Owned[Replacement]]") -> Replacement:
    """A whole tensor, of parts that are all of its rows."""
    first, piece = group[0].value, group[0].piece
    runs = [_from_first(one.piece.runs) for one in group]
    if sum(run.count for some in runs for run in some) < piece.rows:
        raise UnsupportedError(
            "a whole tensor for some of the rows that it has in the other layout"
        )
    if len(group) == 1 and all(run.begin == run.at for run in runs[0]):
        return first
    sources: list[Source] = [one.value.source for one in group]
    if len({source.dtype for source in sources}) > 1:
        raise UnsupportedError("a whole tensor, of another dtype than the rest of it")
    shape = (piece.rows, *first.source.shape[1:])
    return replace(first, source=rows_of_parts(sources, runs, shape))
