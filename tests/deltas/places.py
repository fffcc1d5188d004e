"""Places for the rows of a change in a larger weight, for property tests."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import strategies as st

from loratools.deltas.placed import Run


@st.composite
def places(draw: st.DrawFn, rows: int) -> tuple[tuple[Run, ...], int]:
    """Runs for all of these rows in any order, with or without rows between them; and all rows."""
    cuts = sorted(draw(st.sets(st.integers(1, rows))) | {0, rows})
    runs, at = [], draw(st.integers(0, 2))
    for begin, end in draw(st.permutations(list(pairwise(cuts)))):
        runs.append(Run(begin, at, end - begin))
        at += end - begin + draw(st.integers(0, 2))
    return tuple(runs), at


def rows_of(runs: Sequence[Run]) -> list[int]:
    """The weight's rows in the order of the part's."""
    return [row for run in sorted(runs) for row in range(run.at, run.at + run.count)]
