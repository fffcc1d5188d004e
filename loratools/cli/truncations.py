"""The text of truncations: what was kept of each group of targets, and what was written."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loratools.cli.failures import printable
from loratools.cli.tables import Column, human_size, table_lines
from loratools.cli.text import aside

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loratools.files.writing import Written
    from loratools.reshaping.certificates import Certificates


def certificate_lines(certificates: "Certificates", *, modules: bool) -> Iterator[str]:
    """A table by group of targets, or by target (`modules`), and what was kept of all together."""
    if not certificates.truncations:
        return
    groups = {t: certificates.only(t) for t in certificates.truncations} if modules else None
    rows = groups or certificates.groups()
    totals = [row.total for row in rows.values()]
    yield from table_lines(
        [
            Column("targets", [name.removesuffix(".weight") for name in rows]),
            Column("n", [str(len(row.truncations)) for row in rows.values()], is_number=True),
            Column("rank", [_ranks(row) for row in rows.values()], is_number=True),
            Column("energy", [_share(total.energy) for total in totals], is_number=True),
            Column("rel. error", [f"{total.error:.3g}" for total in totals], is_number=True),
        ]
    )
    total = certificates.total
    yield f"kept {_share(total.energy)} of the energy, relative error {total.error:.3g}"
    if certificates.gap:
        yield f"another choice of ranks could keep at most {certificates.gap:.1e} more"


def written_lines(written: "Written | None", notes: "Iterable[str]") -> Iterator[str]:
    """The notes, for stderr, and the last line: what was written, or that nothing was."""
    for note in notes:
        yield aside("Note", note)
    if written is None:
        yield "dry run: nothing written"
    else:
        yield f"written: {printable(written.path)} ({human_size(written.nbytes)})"


def _ranks(row: "Certificates") -> str:
    """Ranks before and after, as `8 → 4`, with ranges where targets differ."""
    before = sorted(row.before.values())
    return f"{_range(before[0], before[-1])} → {_range(*row.ranks)}"


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}–{most}"


def _share(share: float) -> str:
    """A percentage, which is `<100%` where a share below 1 would round to 100 %."""
    text = f"{100 * share:.4g}%"
    return "<100%" if share < 1 and text == "100%" else text
