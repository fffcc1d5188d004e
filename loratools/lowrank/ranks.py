"""Rules for how many ranks are kept, shared by all verbs that truncate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from loratools.arguments import checked_fields
from loratools.checks import percent_meant
from loratools.errors import LoratoolsError, OptionError, counted, shorten
from loratools.lowrank.budget import Floats, spend
from loratools.lowrank.truncation import TargetSpectrum
from loratools.showing.shown import Brief
from loratools.typed import as_typed

_EPS = float(np.finfo(np.float64).eps)
#: A share of energy that rounding in float64 makes indistinguishable from zero.
NEGLIGIBLE = 1e-12
#: The largest rank that can be asked for: more than any weight has rows.
_MOST = 10**6


@final
@dataclass(frozen=True)
class Choice:
    """The rank chosen for each target.

    Attributes:
        ranks: in the order of the targets. A rank above the number of a target's singular values
            is filled up with zeros.
        gap: the largest additional share of all energy that another choice within the budget
            could keep; 0 if the choice is the best, and for all rules but a budget.
    """

    ranks: tuple[int, ...]
    gap: float = 0.0


@checked_fields
@final
@dataclass(frozen=True, kw_only=True, repr=False)
class RankRule(Brief):
    """A rule that chooses the rank of each target.

    At most one of `rank`, `energy`, `error` and `parameters` is given. Without any, the rule keeps
    all singular values that are not zero.

    Attributes:
        rank: this rank for every target.
        energy: the least ranks that keep this share of the energy of each update (the sum of its
            squared singular values), above 0 and at most 1: 0.95 keeps 95%.
        error: the least ranks that lose at most this share of the norm of each update, from 0 to
            below 1.
        parameters: the best ranks with at most this many parameters: elements of all factors
            together.
        max_rank: no rank above this.
        min_rank: no rank below this, not even that of a zero update.
        multiple_of: round each rank up to a multiple of this, or down if `max_rank` leaves no
            multiple above.
        uniform: the same rank for all targets, the largest that any of them needs.

    Example:
        >>> import loratools
        >>> rule = loratools.RankRule(energy=0.9, max_rank=6)
        >>> small = loratools.resize("fixtures/adapters/plain", rule=rule)
        >>> max(target.rank for target in small.values())
        6

    Raises:
        OptionError: numbers are out of range or contradict each other.
    """

    rank: int | None = None
    energy: float | None = None
    error: float | None = None
    parameters: int | None = None
    max_rank: int | None = None
    min_rank: int = 0
    multiple_of: int = 1
    uniform: bool = False

    def __post_init__(self) -> None:
        for name in ("rank", "min_rank", "multiple_of"):
            if (number := getattr(self, name)) is not None and number > _MOST:
                raise OptionError(
                    f"{as_typed(name)} is at most {_MOST}, not {shorten(str(number), 20)}"
                )
        self._check_goal()
        if self.multiple_of < 1:
            raise OptionError(
                f"ranks cannot be multiples of {self.multiple_of}", hint="use 1 or more"
            )
        if self.min_rank < 0:
            raise OptionError(f"the smallest rank is {self.min_rank}", hint="use 0 or more")
        if self._most is not None and self._most < max(self._least, 1):
            raise OptionError(
                f"no rank is a multiple of {self.multiple_of} from {max(self.min_rank, 1)} to "
                f"{self.max_rank}",
                hint="raise the largest or lower the smallest",
            )

    @property
    def _goals(self) -> tuple[str, ...]:
        names = ("rank", "energy", "error", "parameters")
        return tuple(name for name in names if getattr(self, name) is not None)

    def refuse_goal_beside(self, other: str) -> None:
        """Refuse to combine this rule's goal with another option that sets the rank.

        Raises:
            OptionError: this rule has a goal.
        """
        for goal in self._goals:
            raise _both(other, goal)

    def _check_goal(self) -> None:
        if len(self._goals) > 1:
            raise _both(*self._goals)
        if self.rank is not None:
            if self.rank < 1:
                raise OptionError(f"a rank of {self.rank} keeps nothing", hint="use 1 or more")
            if (self.max_rank, self.min_rank, self.multiple_of) != (None, 0, 1):
                raise OptionError(
                    f"a fixed rank of {self.rank} leaves no choice",
                    hint="leave {}, {} and {} out".format(
                        *map(as_typed, ("max_rank", "min_rank", "multiple_of"))
                    ),
                )
        if self.energy is not None and not 0 < self.energy <= 1:
            raise OptionError(
                f"{as_typed('energy')} is a share above 0 and at most 1, not {self.energy}",
                hint=percent_meant(self.energy),
            )
        if self.error is not None and not 0 <= self.error < 1:
            raise OptionError(
                f"{as_typed('error')} is a share from 0 to below 1, not {self.error}",
                hint=percent_meant(self.error),
            )
        if self.parameters is not None and self.parameters < 1:
            raise OptionError(
                f"a budget of {self.parameters} elements keeps nothing", hint="use 1 or more"
            )

    @property
    def _least(self) -> int:
        return _round_up(self.min_rank, self.multiple_of)

    @property
    def _most(self) -> int | None:
        if self.max_rank is None:
            return None
        return self.max_rank // self.multiple_of * self.multiple_of

    @property
    def _allowed(self) -> float:
        """The share of a target's energy that may be lost, enlarged by the rounding of that share.

        Otherwise 9 of a total of 10 would not be enough for an energy of 0.9.
        """
        if self.error is not None:
            return self.error**2 * (1 + 8 * _EPS)
        if self.energy is not None and self.energy < 1:
            return 1 - self.energy + 4 * _EPS
        return 0.0

    def choose(self, targets: Sequence[TargetSpectrum]) -> Choice:
        """Choose the rank of each target.

        Raises:
            LoratoolsError: `min_rank` for all targets exceeds the budget.
        """
        if self.parameters is not None:
            return self._spend(targets)
        if self.rank is not None:
            return Choice((self.rank,) * len(targets))
        ranks = tuple(self._within(_needed(target, self._allowed)) for target in targets)
        return Choice((max(ranks),) * len(ranks) if self.uniform and ranks else ranks)

    def _spend(self, targets: Sequence[TargetSpectrum]) -> Choice:
        assert self.parameters is not None
        if not targets:
            return Choice(())
        step, least = self.multiple_of, self._least
        left = self.parameters - least * sum(target.cost for target in targets)
        if left < 0:
            raise LoratoolsError(
                f"a rank of {least} for {counted(len(targets), 'target')} takes "
                f"{self.parameters - left} elements, more than the budget of {self.parameters}",
                hint="allow as many",
            )
        most = math.inf if self._most is None else self._most
        # A unit to spend on is a step of `multiple_of` ranks; the units below `min_rank` are paid.
        gains = [_grouped(target.squares, step)[least // step :] for target in targets]
        gains = [each[: int(min(len(each), (most - least) // step))] for each in gains]
        costs = [target.cost * step for target in targets]
        if self.uniform:
            # With one rank for all, a unit adds a step to every target: there is one series.
            found = spend([_added(gains)], [sum(costs)], left)
            counts = found.counts * len(targets)
        else:
            found = spend(gains, costs, left)
            counts = found.counts
        total = sum(target.lost[0] for target in targets)
        return Choice(tuple(least + step * count for count in counts), found.gap / (total or 1))

    def _within(self, rank: int) -> int:
        rank = _round_up(max(rank, self.min_rank), self.multiple_of)
        return rank if self._most is None else min(rank, self._most)

    def wanted(self, targets: Sequence[TargetSpectrum]) -> "Wanted":
        """How far to decompose the updates at first; only the shapes of `targets` are used."""
        if self.parameters is None:
            loss = 1.0 if self.rank is not None else self._allowed
            rank = self.min_rank if self.rank is None else self.rank
        else:
            # Twice the rank that all targets would share: few need more, and are decomposed again.
            loss = 1.0
            rank = 2 * self.parameters // max(1, sum(target.cost for target in targets))
        return Wanted(self._within(rank), loss, self._most, self.multiple_of)

    def unsettled(self, targets: Sequence[TargetSpectrum], choice: Choice) -> tuple[int, ...]:
        """The indices of the targets whose unknown singular values could change the choice."""
        pairs = zip(targets, choice.ranks, strict=True)
        return tuple(i for i, (target, rank) in enumerate(pairs) if self._open(target, rank))

    def _open(self, target: TargetSpectrum, rank: int) -> bool:
        """Whether singular values of a target that are still unknown could change its rank."""
        known = len(target.squares)
        if not target.unknown or rank > known:
            return target.unknown > 0
        if rank in (self.rank, self._most):
            return False
        if self.parameters is not None:
            return rank + self.multiple_of > known
        return bool(target.lost[rank] > self._allowed * target.lost[0])


@final
@dataclass(frozen=True)
class Wanted:
    """How many singular values of an update a rule needs before it can choose.

    Attributes:
        rank: at least this many values are needed.
        loss: enough values are needed for at most this share of the energy to be beyond them; 1
            needs none.
        most: never more than this many values are needed, even for `rank` and `loss`.
        multiple_of: the number of values is rounded up to a multiple of this.
    """

    rank: int = 0
    loss: float = 1.0
    most: int | None = None
    multiple_of: int = 1

    def count(self, kept: Floats, total: float) -> int:
        """The number of values that are needed, where `kept[i]` is the energy of the first i + 1.

        It exceeds `len(kept)` if more values have to be known. A negligible loss needs all values
        of `kept`.
        """
        enough = int(np.searchsorted(kept, (1 - self.loss) * total)) + 1
        if self.loss >= 1:
            enough = 0
        elif self.loss < NEGLIGIBLE:
            enough = len(kept)
        rank = _round_up(max(self.rank, enough), self.multiple_of)
        return rank if self.most is None else min(rank, self.most)


def _needed(target: TargetSpectrum, allowed: float) -> int:
    """The smallest rank that loses at most the allowed share, or else all known values."""
    enough = int(np.sum(target.lost > allowed * target.lost[0]))
    return min(enough, len(target.squares))


def _grouped(gains: Floats, size: int) -> Floats:
    """The sums of successive groups of `size` gains; the last group may be smaller."""
    return np.add.reduceat(gains, range(0, len(gains), size)) if len(gains) else gains


def _added(series: Sequence[Floats]) -> Floats:
    """The sum of series of different lengths, each continued with zeros."""
    total = np.zeros(max(map(len, series)))
    for each in series:
        total[: len(each)] += each
    return total


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _both(*goals: str) -> OptionError:
    names = " and ".join(map(as_typed, goals))
    return OptionError(f"{names} are both given", hint="use one of them")
