"""Write an adapter in another format."""

from collections.abc import Mapping

import click

from loratools.cli.command import ADAPTER, PATH, Verb, section
from loratools.cli.json import json_option
from loratools.cli.output import check_unwritten, checked_output, output_options
from loratools.cli.progress import progress_bar
from loratools.cli.reading import offline_option, reading_options, variant_option
from loratools.cli.text import Answer
from loratools.cli.values import OneOf
from loratools.formats import written

_DTYPES = ("float16", "bfloat16", "float32", "float64")


@click.command(
    "convert",
    short_help=__doc__,
    cls=Verb,
    arguments={"ADAPTER": ADAPTER},
    examples=(
        (
            "Write an adapter of PEFT for mlx-lm:",
            "loratools convert adapter --to mlx -o adapter-mlx",
        ),
        (
            "Write a file of kohya's for ComfyUI, without its updates of the text encoder:",
            "loratools convert style.safetensors --to comfyui --drop 'lora_te_*' "
            "-o comfyui.safetensors",
        ),
        ("See which formats there are:", "loratools formats"),
    ),
)
@click.argument("adapter", type=PATH)
@section(
    "The new format",
    click.option(
        "--to",
        type=OneOf([dialect.name for dialect in written()]),
        required=True,
        help="The format to write; the web UIs of A1111 and Forge read kohya.",
    ),
    click.option(
        "--dtype", type=OneOf(_DTYPES), help="The dtype of the new tensors.  [default: as they are]"
    ),
    click.option("--drop", multiple=True, metavar="GLOB", help="Leave targets that match out."),
)
@output_options
@section(
    "Reading the base",
    click.option(
        "--base",
        type=PATH,
        metavar="BASE",
        help="The base model, if its tensors are needed to understand the names in the adapter.",
    ),
    variant_option,
)
@reading_options
@offline_option
@json_option
def command(
    adapter: str,
    output: str | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    to: str,
    base: str | None,
    variant: str | None,
    dtype: str | None,
    drop: tuple[str, ...],
    allow_pickle: bool,
    config: str | None,
    dialect_options: Mapping[str, str],
) -> None:
    """Write ADAPTER in another format.

    What is written is read again and compared, update by update. What the other format cannot hold
    is an error that names it.
    """
    place, output = output, checked_output(output, dry_run=dry_run)
    from loratools.reshaping.convert import convert

    answer = Answer(as_json=as_json, writes_nothing=dry_run)
    with progress_bar("targets") as progress:
        made = convert(
            adapter,
            output=output,
            to=to,
            base=base,
            variant=variant,
            dtype=dtype,
            drop=drop,
            overwrite=overwrite,
            config=config,
            allow_pickle=allow_pickle,
            dialect_options=dialect_options,
            progress=progress,
            approve=answer.approve,
        )
    check_unwritten(made, place, dry_run=dry_run, overwrite=overwrite)
    answer.print()
