"""Merge adapters into a base model."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from loratools.cli.account import account
from loratools.cli.failures import printable
from loratools.cli.options import (
    Size,
    config_option,
    dialect_options,
    jobs_option,
    json_option,
    offline_option,
    pickle_option,
    rounding_options,
    selection_options,
    variant_option,
)
from loratools.cli.progress import progress_bar
from loratools.cli.swaps import run_swap
from loratools.cli.tables import human_size
from loratools.cli.text import Answer
from loratools.cli.unknown import OneOf
from loratools.cli.weights import block_weights_option, check_counts
from loratools.errors import OutputError

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
@partial(block_weights_option, of_each=True)
@click.option(
    "--dtype",
    type=OneOf(["keep", "float32", "bfloat16", "float16"]),
    default="keep",
    show_default=True,
    help="The dtype of all float weights.",
)
@click.option("--max-shard-size", type=Size(), help="Split the weights anew, e.g. 5GB.")
@click.option(
    "--only-changed", is_flag=True, help="Write an overlay: only the tensors that change."
)
@selection_options
@variant_option
@rounding_options
@jobs_option
@click.option(
    "--in-place", is_flag=True, help="Rewrite the files of BASE, your own copy, as swap does."
)
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
    in_place: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Write BASE + weight x ADAPTER (+ ...) as a model of the same layout.

    BASE and each ADAPTER are a folder, a safetensors file or an hf://owner/name on the Hub. All
    adapters are added before the one rounding to BASE's dtype. The output appears complete, or not
    at all. BASE+OVERLAY is a base with what --only-changed has written; without an ADAPTER it is
    written as one model; so is a state dict of home-made layers, with --keys base=PATTERN.
    """
    from loratools.files.own_base import holds_base
    from loratools.files.place import layers_of

    is_whole = len(layers_of(base)) > 1 or holds_base(settings["dialect_options"])
    if not adapters and (settings["only_changed"] or in_place or not is_whole):
        raise click.UsageError("Missing argument 'ADAPTER...'; name an adapter after the base.")
    if in_place:
        _check_in_place(output, settings)
    elif output is None and not dry_run:
        raise click.UsageError("Missing option '-o' / '--output' (or use --dry-run).")
    check_counts(settings, weights, len(adapters))
    if in_place:
        shown = {"dry_run": dry_run, "verbose": verbose}
        _merge_in_place(base, adapters, weights, as_json, settings | shown)
        return
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
                block_weights=settings["block_weights"] or None,
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
            variant=settings["variant"],
        )
    answer.print()


def _check_in_place(output: str | None, settings: dict[str, Any]) -> None:
    """Refuse options that an output of its own has, and a model's own files do not."""
    others = {
        "--output": output is not None,
        "--dtype": settings["dtype"] != "keep",
        "--max-shard-size": settings["max_shard_size"] is not None,
        "--only-changed": settings["only_changed"],
        "--overwrite": settings["overwrite"],
    }
    if given := [option for option, is_given in others.items() if is_given]:
        raise click.UsageError(f"--in-place keeps the files of BASE, so it takes no {given[0]}.")


def _merge_in_place(
    base: str,
    adapters: tuple[str, ...],
    weights: tuple[float, ...],
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Put adapters into a model in which none is."""
    from loratools.swapping.swap import swap

    if swapped := swap(base, dry_run=True, variant=settings["variant"]).adapters:
        raise OutputError(
            f"{base}: {swapped[0].path} is in it; loratools swap --in puts others in its place, "
            f"and swap --out takes it out"
        )
    run_swap(base, adapters, weights=weights, as_json=as_json, settings=settings)


def _text(report: "MergeReport", *, verbose: bool) -> Iterator[str]:
    yield from account(report, verbose=verbose)
    if report.output is None:
        yield "dry run: nothing written"
    else:
        size = sum(report.files.values())
        what = ", an overlay of the base" if report.is_overlay else ""
        yield f"written: {printable(report.output)} ({human_size(size)}){what}"
