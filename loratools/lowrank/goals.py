"""The ranks that a verb keeps, as its keyword arguments say; numpy is imported only for a rule."""

from typing import TYPE_CHECKING, TypedDict

from loratools.keywords import with_keywords

if TYPE_CHECKING:
    from loratools.lowrank.ranks import RankRule


class Ranks(TypedDict, total=False):
    """The keyword arguments that say how many ranks are kept."""

    rank: int | None
    energy: float | None
    error: float | None
    size: int | str | None
    rule: "RankRule | None"


def rule_of(
    rule: "RankRule | None",
    *,
    rank: int | None = None,
    energy: float | None = None,
    error: float | None = None,
) -> "RankRule | None":
    """The rule with a goal that is given by keyword; None where nothing is given.

    Raises:
        OptionError: a goal is given twice, or there are two.
    """
    if rank is energy is error is None:
        return rule
    from loratools.lowrank.ranks import RankRule

    return with_keywords(rule or RankRule(), rank=rank, energy=energy, error=error)
