"""Merge adapters into a base model."""

from functools import partial
from typing import Any

import click

from loratools.cli.command import ADAPTER, BASE, PATH, Verb, section
from loratools.cli.json import json_option
from loratools.cli.options import (
    allow_nonfinite_option,
    allow_unmatched_option,
    jobs_option,
    rounding_options,
    rounding_seed,
    selection_options,
)
from loratools.cli.output import dry_run_option, output_option, overwrite_option
from loratools.cli.progress import progress_bar
from loratools.cli.reading import offline_option, reading_options, variant_option
from loratools.cli.swaps import run_swap
from loratools.cli.text import Answer
from loratools.cli.values import OneOf, Size
from loratools.cli.verbosity import is_verbose
from loratools.cli.weights import block_weights_option, check_counts, weight_option, weighted
from loratools.errors import OutputError


@click.command(
    "merge",
    short_help=__doc__,
    cls=Verb,
    arguments={"BASE": BASE, "ADAPTER": ADAPTER},
    examples=(
        (
            "Merge an adapter at 70% of its strength:",
            "loratools merge model adapter:0.7 -o merged",
        ),
        (
            "Merge two adapters, after a look at what would be done:",
            "loratools merge model adapter other-adapter -w 0.7,0.3 --dry-run",
        ),
        (
            "Change the attention only, and write float16 in shards of 2 GB:",
            "loratools merge model adapter -o half --only '*attn*' --dtype float16 "
            "--max-shard-size 2GB",
        ),
    ),
)
@click.argument("base", type=PATH)
@click.argument("adapters", nargs=-1, type=PATH, metavar="[ADAPTER...]")
@section(
    "What is changed",
    weight_option,
    partial(block_weights_option, of_each=True),
    selection_options,
    allow_unmatched_option,
)
@section(
    "Numbers",
    click.option(
        "--dtype",
        type=OneOf(["keep", "float32", "bfloat16", "float16"]),
        default="keep",
        show_default=True,
        help="The dtype of all float weights.",
    ),
    rounding_options,
    allow_nonfinite_option,
)
@section(
    "Output",
    output_option("model", "a new folder if BASE is one, or a new file"),
    overwrite_option,
    dry_run_option,
    click.option(
        "--max-shard-size",
        type=Size(),
        metavar="SIZE",
        help="Split the weights into files of at most this size, such as 5GB (or 5GiB, of 1024³ "
        "bytes).  [default: as the files of BASE]",
    ),
    click.option(
        "--only-changed",
        is_flag=True,
        help="Write an overlay, with only the tensors that change; read it with BASE, as "
        "BASE+OVERLAY.",
    ),
    click.option(
        "--in-place",
        is_flag=True,
        help="Rewrite the files of BASE, which is your own copy. `loratools swap` takes the "
        "adapters out again.",
    ),
)
@section("Reading the base", variant_option)
@reading_options
@jobs_option
@offline_option
@json_option
def command(
    base: str,
    adapters: tuple[str, ...],
    output: str | None,
    weights: tuple[float, ...],
    as_json: bool,
    dry_run: bool,
    in_place: bool,
    **settings: Any,
) -> None:
    """Write BASE + weight x ADAPTER (+ ...) as a model of the same layout.

    All adapters are added before the one rounding to BASE's dtype. The output appears complete, or
    not at all.

    BASE+OVERLAY is a base with what --only-changed has written; without an ADAPTER it is written as
    one model. So is a state dict of home-made layers, with --keys base=PATTERN.
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
    adapters, weights = weighted(adapters, weights)
    check_counts(len(adapters), weights, settings["block_weights"])
    if in_place:
        _merge_in_place(base, adapters, weights, as_json, settings | {"dry_run": dry_run})
        return
    from loratools.merging.execute import WriteOptions
    from loratools.merging.merge import merge
    from loratools.merging.plan import MergeOptions

    answer = Answer(verbose=is_verbose() or dry_run, as_json=as_json)
    with progress_bar() as progress:
        merge(
            base,
            adapters,
            output=output,
            dry_run=dry_run,
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
                seed=rounding_seed(settings),
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
            f"{base}: {swapped[0].path} is in it",
            hint="loratools swap --in puts others in its place, and swap --out takes it out",
        )
    run_swap(base, adapters, weights=weights, as_json=as_json, settings=settings)
