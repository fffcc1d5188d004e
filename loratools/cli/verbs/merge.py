"""Merge adapters into a base model."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from loratools.cli.failures import printable
from loratools.cli.options import (
    Size,
    config_option,
    dialect_options,
    jobs_option,
    json_option,
    offline_option,
    pickle_option,
)
from loratools.cli.progress import progress_bar
from loratools.cli.tables import human_size
from loratools.cli.text import Answer, aside
from loratools.errors import listing

if TYPE_CHECKING:
    from loratools.merging.report import MergeReport


@click.command("merge", short_help=__doc__)
@click.argument("base", type=click.Path())
@click.argument("adapters", nargs=-1, type=click.Path(), metavar="[ADAPTER...]")
@click.option("-o", "--output", type=click.Path(), help="Where the merged model is written.")
@click.option(
    "-w",
    "--weight",
    "weights",
    type=float,
    multiple=True,
    help="The weight of each adapter, in order. -1 takes one out again.  [default: 1]",
)
@click.option(
    "--dtype",
    type=click.Choice(["keep", "float32", "bfloat16", "float16"]),
    default="keep",
    show_default=True,
    help="The dtype of all float weights.",
)
@click.option("--max-shard-size", type=Size(), help="Split the weights anew, e.g. 5GB.")
@click.option(
    "--only-changed", is_flag=True, help="Write an overlay: only the tensors that change."
)
@click.option("--only", multiple=True, metavar="GLOB", help="Change only these weights.")
@click.option("--skip", multiple=True, metavar="GLOB", help="Leave these weights as they are.")
@click.option(
    "--rounding",
    type=click.Choice(["nearest", "stochastic"]),
    default="nearest",
    show_default=True,
    help="How results are rounded; stochastic keeps weak updates on average.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="For stochastic rounding.")
@jobs_option
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
@click.option("--dry-run", is_flag=True, help="Check and show the plan; write nothing.")
@click.option(
    "--allow-unmatched", is_flag=True, help="Leave out updates the base has no place for."
)
@click.option("--allow-nonfinite", is_flag=True, help="Write NaNs and infinities.")
@pickle_option
@config_option
@dialect_options
@json_option
@offline_option
@click.option("-v", "--verbose", is_flag=True, help="Show what was done to each weight.")
def command(
    base: str,
    adapters: tuple[str, ...],
    output: str | None,
    weights: tuple[float, ...],
    as_json: bool,
    dry_run: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Write BASE + weight x ADAPTER (+ ...) as a model of the same layout.

    BASE and each ADAPTER are a folder, a safetensors file or an hf://owner/name on the Hub. All
    adapters are added before the one rounding to BASE's dtype. The output appears complete, or not
    at all. BASE+OVERLAY is a base with what --only-changed has written; without an ADAPTER it is
    written as one model.
    """
    from loratools.files.place import layers_of

    if not adapters and (settings["only_changed"] or len(layers_of(base)) == 1):
        raise click.UsageError("Missing argument 'ADAPTER...'.")
    if output is None and not dry_run:
        raise click.UsageError("Missing option '-o' / '--output' (or use --dry-run).")
    if weights and len(weights) != len(adapters):
        raise click.UsageError(f"{len(weights)} weights (-w) for {len(adapters)} adapters.")
    from loratools.merging.execute import WriteOptions
    from loratools.merging.merge import merge
    from loratools.merging.plan import MergeOptions

    answer = Answer(partial(_text, verbose=verbose or dry_run), as_json=as_json)
    with progress_bar() as progress:
        merge(
            base,
            adapters,
            output=None if dry_run else output,
            weights=weights or None,
            options=MergeOptions(
                dtype=None if settings["dtype"] == "keep" else settings["dtype"],
                only=settings["only"],
                skip=settings["skip"],
                allow_unmatched=settings["allow_unmatched"],
            ),
            write=WriteOptions(
                max_shard_bytes=settings["max_shard_size"],
                seed=settings["seed"] if settings["rounding"] == "stochastic" else None,
                allow_nonfinite=settings["allow_nonfinite"],
                overwrite=settings["overwrite"],
                only_changed=settings["only_changed"],
                jobs=settings["jobs"],
                progress=progress,
                approve=answer.approve,
            ),
            config=settings["config"],
            allow_pickle=settings["allow_pickle"],
            dialect_options=settings["dialect_options"],
        )
    answer.print()


def _text(report: "MergeReport", *, verbose: bool) -> Iterator[str]:
    for adapter in report.plan.adapters:
        for note in (*adapter.notes, *adapter.notes_beside):
            yield aside("Note", f"{adapter.where}: {note.message}")
    for text in report.notes:
        yield aside("Note", text)
    if report.left_out:
        yield aside("Note", f"not copied: {listing(report.left_out)}")
    if verbose:
        yield from _row_lines(report)
    yield report.accounting
    if report.fidelity_line is not None:
        yield report.fidelity_line
    for warning in report.warnings:
        yield aside("Warning", warning)
    if report.output is None:
        yield "dry run: nothing written"
    else:
        size = sum(report.files.values())
        what = ", an overlay of the base" if report.is_overlay else ""
        yield f"written: {printable(report.output)} ({human_size(size)}){what}"


def _row_lines(report: "MergeReport") -> Iterator[str]:
    idle = {part.name: part.reason for part in report.idle}
    for tensor, actions in report.rows():
        fidelity = report.fidelity.get(tensor.name)
        lost = f"  [{100 * fidelity.relative_error:.3g}% lost]" if fidelity else ""
        if tensor.name in idle:
            lost = f"  [{idle[tensor.name]}]"
        yield f"  {printable(f'{tensor.name}: {actions}')}{lost}"
