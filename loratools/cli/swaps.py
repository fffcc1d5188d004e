"""Run a swap for the commands that can make one, and print its report."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from loratools.cli.account import account
from loratools.cli.failures import printable
from loratools.cli.progress import progress_bar
from loratools.cli.tables import human_size
from loratools.cli.text import Answer, aside
from loratools.cli.verbosity import is_verbose
from loratools.errors import counted

if TYPE_CHECKING:
    from loratools.files.swapped import SwappedIn
    from loratools.swapping.report import SwapReport


def run_swap(
    model: str,
    adapters: tuple[str, ...] | None,
    *,
    weights: tuple[float, ...],
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Swap with the options of the command line, and print the report."""
    from loratools.merging.execute import WriteOptions
    from loratools.merging.plan import MergeOptions
    from loratools.swapping.swap import swap

    shows_rows = is_verbose() or settings["dry_run"]
    answer = Answer(partial(_text, verbose=shows_rows), as_json=as_json)
    with progress_bar() as progress:
        swap(
            model,
            adapters,
            weights=weights or None,
            options=MergeOptions(
                only=settings["only"],
                skip=settings["skip"],
                allow_unmatched=settings["allow_unmatched"],
                block_weights=settings["block_weights"] or None,
            ),
            write=WriteOptions(
                seed=settings["seed"] if settings["rounding"] == "stochastic" else None,
                allow_nonfinite=settings["allow_nonfinite"],
                jobs=settings["jobs"],
                progress=progress,
            ),
            approve=answer.approve,
            config=settings["config"],
            allow_pickle=settings["allow_pickle"],
            dialect_options=settings["dialect_options"],
            dry_run=settings["dry_run"],
            variant=settings["variant"],
        )
    answer.print()


def _text(report: "SwapReport", *, verbose: bool) -> Iterator[str]:
    if report.completed:
        yield aside("Note", "a swap that was interrupted is completed")
    if report.merge is not None:
        yield from account(report.merge, verbose=verbose)
    model = printable(report.model)
    size = (
        f"{counted(len(report.rewritten), 'tensor')}, {human_size(sum(report.rewritten.values()))}"
    )
    if report.dry_run:
        yield f"dry run: nothing written ({size} would be)"
    elif report.merge is not None:
        yield f"in: {_names(report.adapters)}"
        kept = human_size(report.originals_bytes)
        yield f"rewritten in {model}: {size}; originals kept: {kept}"
    elif report.rewritten:
        yield f"out: {_names(report.before)}"
        yield f"rewritten in {model}: {size}; each byte is as it was"
    elif report.adapters:
        yield f"in: {_names(report.adapters)}"
        yield f"originals kept for {model}: {human_size(report.originals_bytes)}"
    else:
        yield f"{model}: no adapter is in"


def _names(adapters: "Sequence[SwappedIn]") -> str:
    parts = (a.path if a.weight == 1 else f"{a.path} × {a.weight:g}" for a in adapters)
    return printable(" + ".join(parts))
