"""The names of an adapter's targets in the other layout of their model, with the rows they share.

Rules say which rows of an original tensor a tensor of diffusers is (`rules.py`). How many these
are, the targets' shapes tell: an update of `img_attn.qkv` has the rows of `to_q`, `to_k` and
`to_v`. Where they do not, as where keys have fewer heads than queries, the names and shapes of a
base do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple, final

from loratools.deltas.placed import Run
from loratools.errors import MatchError, counted
from loratools.names.architectures import Architecture
from loratools.names.flattened import without_kernel
from loratools.names.other_names import Shape, fits
from loratools.names.patterns import depths_of
from loratools.names.rules import Part, Rows, Side
from loratools.typed import see_base


@final
class Piece(NamedTuple):
    """A tensor, how many rows it has, and which of them are rows of a target.

    A run's `begin` counts the target's rows, and `at` those of the tensor.
    """

    name: str
    runs: tuple[Run, ...]
    rows: int


@final
@dataclass(frozen=True)
class Crossing:
    """The model that targets belong to, and the layout of their names.

    Attributes:
        architecture: the architecture of the model.
        side: the layout of the targets' names.
        shapes: the shapes of the targets.
        base: the shapes of a base's tensors by their names in all layouts; empty without a base.
    """

    architecture: Architecture
    side: Side
    shapes: Mapping[str, tuple[int, ...]]
    base: Mapping[str, Shape]

    def pieces(self, name: str, is_wanted: Callable[[str], bool]) -> tuple[Piece, ...]:
        """The tensors of the other layout that a target is a part of, or consists of.

        Of several names of one original tensor, the first one is taken that is wanted.

        Raises:
            MatchError: there is none, or the names and shapes leave open which rows it has.
        """
        self._check(name)
        if self.side == "original":
            return tuple(self._part(part) for part in self._parts(name))
        return (self._whole(self._wholes(name), is_wanted),)

    def renamed(self, name: str, is_wanted: Callable[[str], bool]) -> str | None:
        """Another name of an original tensor, if there is one that is wanted."""
        parts = self._parts(name)
        wholes = self.architecture.rules.wholes(parts[0].diffusers, self._depths) or ()
        for other in (whole.original for whole in wholes if is_wanted(whole.original)):
            same = [(part.diffusers, part.rows) for part in self._parts(other)]
            if same == [(part.diffusers, part.rows) for part in parts]:
                return other
        return None

    @cached_property
    def _depths(self) -> Mapping[str, int]:
        return depths_of(self.base or self.shapes)

    def _check(self, name: str) -> None:
        """Check that the base, if there is one, has a tensor of this name and shape."""
        if not self.base:
            return
        if name not in self.base:
            raise MatchError("no tensor of the base has this name")
        wanted, found = without_kernel(self.shapes[name]), without_kernel(self.base[name])
        if found and not fits(found, wanted):
            raise MatchError(f"has the shape {list(wanted)}, and in the base {list(found)}")

    def _parts(self, name: str) -> tuple[Part, ...]:
        rules = self.architecture.rules
        found = rules.parts(name, self._depths)
        if not self.base and found != rules.parts(name, {}):
            raise MatchError("in the last block if the model has no more of them", hint=see_base())
        if found is None:
            raise MatchError(f"no name that is known of {self.architecture.name}")
        if not found:
            reason = rules.reason(name, self._depths)
            raise MatchError(f"a tensor that diffusers does not have: {reason}")
        return found

    def _wholes(self, name: str) -> tuple[Part, ...]:
        rules = self.architecture.rules
        found = rules.wholes(name, self._depths)
        if not self.base and found != rules.wholes(name, {}):
            raise MatchError("in the last block if the model has no more of them", hint=see_base())
        if not found:
            raise MatchError(f"no name that is known of {self.architecture.name}")
        return found

    def _part(self, part: Part) -> Piece:
        """The piece that a part of a target is."""
        count = self.shapes[part.original][0]
        rows = self._stored_rows(part.diffusers) or part.rows.part_rows(count)
        runs = _runs(part.rows, count, rows)
        own = tuple(Run(run.at, run.begin, run.count) for run in runs)
        return Piece(part.diffusers, own, sum(run.count for run in own))

    def _whole(self, wholes: tuple[Part, ...], is_wanted: Callable[[str], bool]) -> Piece:
        """The piece of the other layout that a target is rows of."""
        part = next((whole for whole in wholes if is_wanted(whole.original)), wholes[0])
        count = self.shapes[part.diffusers][0]
        rows = self._stored_rows(part.original) or self._all_rows(part, count)
        return Piece(part.original, _runs(part.rows, rows, count), rows)

    def _stored_rows(self, name: str) -> int | None:
        """The number of rows of a base's tensor; None if it is not known."""
        return self.base[name][0] if self.base.get(name) else None

    def _all_rows(self, part: Part, count: int) -> int:
        """The number of rows of the original tensor of which a part has so many."""
        if not part.rows.ranges:
            return count
        if part.rows.part_rows(0) is not None:
            share = sum((b.of_all - a.of_all for a, b in part.rows.ranges), Fraction(0))
            rows = count / share
            if rows.denominator == 1:
                return int(rows)
            raise MatchError(f"{counted(count, 'row')}, not {share} of a whole number of rows")
        others = [other.diffusers for other in self._parts(part.original)]
        if all(other in self.shapes for other in others):
            return sum(self.shapes[other][0] for other in others)
        raise MatchError("rows of a tensor of unknown size", hint=see_base())


def _runs(rows: Rows, of_all: int, of_part: int | None) -> tuple[Run, ...]:
    """The rows of a part, in its order, and those of the whole that they are.

    Raises:
        MatchError: this is not known, or the tensors do not correspond row by row.
    """
    if rows.is_transposed or rows.is_reshaped:
        raise MatchError("of another shape in the other layout, so no rows of it")
    if of_part is None:
        raise MatchError("how many rows are whose is not known", hint=see_base())
    ranges = rows.resolved(of_all, of_part)
    if ranges is None:
        raise MatchError(
            f"{counted(of_all, 'row')}, of which the other layout has {of_part} in another way"
        )
    begins = accumulate((last - first for first, last in ranges), initial=0)
    runs = zip(begins, ranges, strict=False)
    return tuple(Run(begin, first, last - first) for begin, (first, last) in runs)
