"""The lines about what became of every tensor in a merge, wherever its result is."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loratools.cli.failures import printable
from loratools.cli.text import aside
from loratools.errors import listing

if TYPE_CHECKING:
    from loratools.merging.report import MergeReport


def account(report: "MergeReport", *, verbose: bool) -> Iterator[str]:
    """The lines of a merge's report; with `verbose`, one for each tensor too."""
    for adapter in report.plan.adapters:
        for note in (*adapter.notes, *adapter.notes_beside):
            yield aside("Note", f"{adapter.where}: {note.message}")
    for text in report.notes:
        yield aside("Note", text)
    if report.left_out:
        yield aside("Note", f"not copied: {listing(report.left_out)}")
    if verbose:
        yield from _row_lines(report)
    if report.plan.recognised is not None:
        yield f"base: {report.plan.recognised}"
    yield report.accounting
    if report.packed_line is not None:
        yield report.packed_line
    if report.fidelity_line is not None:
        yield report.fidelity_line
    for warning in report.warnings:
        yield aside("Warning", warning)


def _row_lines(report: "MergeReport") -> Iterator[str]:
    idle = {part.name: part.reason for part in report.idle}
    for tensor, actions in report.rows():
        fidelity = report.fidelity.get(tensor.name)
        lost = f"  [{100 * fidelity.relative_error:.3g}% lost]" if fidelity else ""
        if tensor.name in idle:
            lost = f"  [{idle[tensor.name]}]"
        yield f"  {printable(f'{tensor.name}: {actions}')}{lost}"
