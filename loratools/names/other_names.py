"""The names that tensors of a model have in other layouts, and which of their rows have them.

A tensor of another layout is a part of a stored one (`attn.to_q` of `img_attn.qkv`), or consists of
several (`img_attn.qkv` of `attn.to_q`, `to_k` and `to_v`), or has only another name.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import NamedTuple, final

from loratools.names.architectures import Architecture
from loratools.names.patterns import depths_of
from loratools.names.rules import Part, Rows, Rules, Side, opposite

#: The shape of a tensor; its number of rows is None if that follows only from an update's shape.
Shape = tuple[int | None, ...]


@final
class Segment(NamedTuple):
    """Rows of a tensor, `begin` to `begin + size`: those of a stored one, from `at` on."""

    begin: int
    size: int
    stored: str
    at: int


@final
class _Piece(NamedTuple):
    """A tensor, and which rows of the whole it is: one of those that a whole consists of."""

    name: str
    rows: Rows


@final
@dataclass(frozen=True)
class _PartOf:
    """A tensor that is some rows of another one."""

    whole: str
    rows: Rows


@final
@dataclass(frozen=True)
class _MadeOf:
    """A tensor that consists of others."""

    pieces: tuple[_Piece, ...]


@final
@dataclass(frozen=True)
class OtherNames:
    """The stored tensors of a model by name, with their shapes, and what other names mean."""

    stored: Mapping[str, tuple[int, ...]]
    _meanings: dict[str, _PartOf | _MadeOf] = field(default_factory=dict, init=False)

    def add(self, architectures: Iterable[Architecture]) -> None:
        """Add the names that the tensors have by the rules of these architectures, in this order.

        What one architecture calls a tensor may be a name that the next one knows.
        """
        for architecture in architectures:
            names = (*self.stored, *self._meanings)
            depths = depths_of(names)
            if found := architecture.recognised(names, depths):
                # The second time, names on the one side that mean the same as those on the other.
                self.add_parts(_across(architecture.rules, names, found.side, depths))
                others = tuple(name for name in self._meanings if name not in names)
                self.add_parts(_across(architecture.rules, others, opposite(found.side), depths))

    def add_parts(self, parts: Iterable[Part]) -> None:
        """Add what is known of wholes and their parts, as far as either is stored."""
        wholes: dict[str, list[_Piece]] = {}
        for part in parts:
            if self.has(part.original) and not self.has(part.diffusers):
                self._meanings[part.diffusers] = _PartOf(part.original, part.rows)
            wholes.setdefault(part.original, []).append(_Piece(part.diffusers, part.rows))
        for whole, pieces in wholes.items():
            if not self.has(whole) and all(self.has(piece.name) for piece in pieces):
                self._meanings[whole] = _MadeOf(tuple(pieces))

    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of all tensors, by every name that they have."""
        return _Shapes(self)

    def names(self) -> Iterator[str]:
        """Every name that a tensor has."""
        return chain(self.stored, self._meanings)

    def has(self, name: str) -> bool:
        """Whether a tensor has this name."""
        return name in self.stored or name in self._meanings

    def shape(self, name: str) -> Shape:
        """The shape of a tensor by one of its names; empty if the axes do not correspond."""
        if name in self.stored:
            return self.stored[name]
        meaning = self._meanings[name]
        if isinstance(meaning, _PartOf):
            whole = self.shape(meaning.whole)
            if meaning.rows.is_transposed:
                return whole[::-1]
            if meaning.rows.is_reshaped or not whole:
                return ()
            rows = None if whole[0] is None else meaning.rows.part_rows(whole[0])
            return (rows, *whole[1:])
        shapes = [self.shape(piece.name) for piece in meaning.pieces]
        first = meaning.pieces[0].rows
        if first.is_transposed:
            return shapes[0][::-1]
        if first.is_reshaped or len({shape[1:] for shape in shapes}) != 1 or () in shapes:
            return ()
        sizes = [shape[0] for shape in shapes if shape[0] is not None]
        return (sum(sizes) if len(sizes) == len(shapes) else None, *shapes[0][1:])

    def is_transposed(self, name: str) -> bool:
        """Whether the stored tensor has the axes of this one exchanged."""
        meaning = self._meanings.get(name)
        if meaning is None:
            return False
        if isinstance(meaning, _PartOf):
            return meaning.rows.is_transposed != self.is_transposed(meaning.whole)
        piece = meaning.pieces[0]
        return piece.rows.is_transposed != self.is_transposed(piece.name)

    def segments(self, name: str, count: int) -> tuple[Segment, ...] | None:
        """The stored rows that the `count` rows of a tensor are; None if it has not so many.

        Of a tensor whose axes are exchanged, `count` is the number of rows of the stored one.
        """
        if name in self.stored:
            rows = self.stored[name][0] if self.stored[name] else 1
            return (Segment(0, count, name, 0),) if rows == count else None
        meaning = self._meanings[name]
        if isinstance(meaning, _PartOf):
            return self._of_whole(meaning, count)
        return self._of_pieces(meaning.pieces, count)

    def _of_whole(self, meaning: _PartOf, count: int) -> tuple[Segment, ...] | None:
        whole = self._count(meaning.whole)
        if whole is None:
            return None
        ranges = meaning.rows.resolved(whole, count)
        segments = self.segments(meaning.whole, whole)
        if ranges is None or segments is None:
            return None
        begins = accumulate((last - first for first, last in ranges), initial=0)
        return _joined(
            Segment(begin + s.begin - first, s.size, s.stored, s.at)
            for begin, (first, last) in zip(begins, ranges, strict=False)
            for s in _cut(segments, first, last)
        )

    def _of_pieces(self, pieces: Sequence[_Piece], count: int) -> tuple[Segment, ...] | None:
        found: list[Segment] = []
        for piece in pieces:
            size = self._count(piece.name)
            if size is None:
                return None
            ranges = piece.rows.resolved(count, size)
            segments = self.segments(piece.name, size)
            if ranges is None or segments is None:
                return None
            done = 0
            for first, last in ranges:
                cut = _cut(segments, done, done + last - first)
                found += (Segment(first + s.begin - done, s.size, s.stored, s.at) for s in cut)
                done += last - first
        found.sort()
        ends = [0, *(segment.begin + segment.size for segment in found)]
        # A whole is all of its parts: every row belongs to exactly one.
        return _joined(found) if [s.begin for s in found] + [count] == ends else None

    def _count(self, name: str) -> int | None:
        shape = self.shape(name)
        return shape[0] if shape else None


@final
@dataclass(frozen=True)
class _Shapes(Mapping[str, Shape]):
    """The shapes of tensors by all their names: computed when looked up, as a search needs few."""

    others: OtherNames

    def __getitem__(self, name: str) -> Shape:
        return self.others.shape(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.others.has(name)

    def __iter__(self) -> Iterator[str]:
        return self.others.names()

    def __len__(self) -> int:
        return sum(1 for _ in self)


def fits(shape: Shape, wanted: tuple[int, ...]) -> bool:
    """Whether a tensor may have this shape; its number of rows may be open."""
    if len(shape) != len(wanted):
        return False
    return all(a is None or a == b for a, b in zip(shape, wanted, strict=True))


def _across(
    rules: Rules, names: Iterable[str], side: Side, depths: Mapping[str, int]
) -> Iterable[Part]:
    """The wholes and parts that names on a side belong to, each whole with all of its parts."""
    if side == "diffusers":
        known = (part for name in names for part in rules.wholes(name, depths) or ())
        names = tuple(dict.fromkeys(part.original for part in known))
        depths = {**depths, **depths_of(names)}
    return tuple(part for name in names for part in rules.parts(name, depths) or ())


def _cut(segments: Iterable[Segment], first: int, last: int) -> Iterable[Segment]:
    """The segments of the rows `first` to `last`."""
    for segment in segments:
        begin = max(first, segment.begin)
        end = min(last, segment.begin + segment.size)
        if begin < end:
            yield Segment(begin, end - begin, segment.stored, segment.at + begin - segment.begin)


def _joined(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """The segments in the order of their rows, with those that continue each other as one."""
    found: list[Segment] = []
    for segment in sorted(segments):
        last = found[-1] if found else None
        if (
            last is not None
            and last.stored == segment.stored
            and last.begin + last.size == segment.begin
            and last.at + last.size == segment.at
        ):
            found[-1] = last._replace(size=last.size + segment.size)
        else:
            found.append(segment)
    return tuple(found)
