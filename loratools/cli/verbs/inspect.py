"""Describe an adapter, or each in a folder."""

from typing import Any

import click

from loratools.cli.command import ADAPTER, PATH, Verb, section
from loratools.cli.failures import CHECK_FAILED
from loratools.cli.json import json_option, print_json
from loratools.cli.options import modules_option
from loratools.cli.progress import progress_bar
from loratools.cli.reading import offline_option, reading_options, variant_option
from loratools.cli.several import inspect_several
from loratools.cli.tables import shown_lines
from loratools.cli.text import print_faults, print_lines


@click.command(
    "inspect",
    short_help=__doc__,
    cls=Verb,
    arguments={"ADAPTER": f"{ADAPTER} Or a folder of adapters."},
    examples=(
        ("See what is in an adapter:", "loratools inspect style.safetensors"),
        (
            "See several, or a folder of them, in one table:",
            "loratools inspect adapter other-adapter style.safetensors",
        ),
        (
            "Check in a script that one is sound and fits a model (exit code 3 if not):",
            "loratools inspect adapter --base model --check -q",
        ),
    ),
)
@click.argument("adapters", metavar="ADAPTER...", nargs=-1, required=True, type=PATH)
@section(
    "What is shown of one adapter",
    click.option(
        "--spectrum",
        is_flag=True,
        help="Measure every update: its norm, its largest singular value, and its effective rank.",
    ),
    click.option(
        "--blocks",
        is_flag=True,
        help="Measure how much of the update is in each block of the model.",
    ),
    modules_option,
)
@section(
    "Several adapters",
    click.option(
        "--list", "as_list", is_flag=True, help="Show a table, or an array of JSON, even of one."
    ),
    click.option("--recursive", is_flag=True, help="Look into folders at any depth."),
)
@section(
    "Checking",
    click.option(
        "--check",
        is_flag=True,
        help="Read the values too, and exit with code 3 if something is wrong.",
    ),
    click.option(
        "--base",
        type=PATH,
        metavar="BASE",
        help="See whether the adapter fits this model, and what it changes there.",
    ),
    variant_option,
)
@reading_options
@offline_option
@json_option
def command(
    adapters: tuple[str, ...],
    config: str | None,
    modules: bool,
    check: bool,
    as_json: bool,
    as_list: bool,
    recursive: bool,
    **settings: Any,
) -> int:
    """Describe ADAPTER from its headers and its config, without reading its values.

    Of several, and of a folder of adapters, it prints a table with a row for each.

    With --check it reads the values too: a NaN, or an adapter that was never trained, is wrong.
    """
    from loratools.describing.describe import Inspecting
    from loratools.describing.several import are_several, find_each

    show_spectrum = settings["spectrum"]
    inspecting = Inspecting(**{**settings, "spectrum": show_spectrum or check})
    if as_list or recursive or len(adapters) > 1 or are_several(adapters[0]):
        if config is not None:
            raise click.UsageError("--config is the config of one adapter: name that one alone.")
        alone = {"--spectrum": show_spectrum, "--blocks": settings["blocks"], "--modules": modules}
        if not as_json and (given := " and ".join(name for name in alone if alone[name])):
            raise click.UsageError(f"{given}: shown of one adapter; name one alone, or add --json.")
        found_each = find_each(adapters, recursive=recursive, allow_pickle=settings["allow_pickle"])
        return inspect_several(found_each, inspecting, check=check, as_json=as_json)
    with progress_bar("targets") as progress:
        found = inspecting.describe(adapters[0], config, progress=progress)
    if as_json:
        print_json(found)
    else:
        print_lines(shown_lines(found.shown(verbose=modules, spectrum=show_spectrum)))
        if check:
            print_faults(found.faults())
    return CHECK_FAILED if check and not found.is_sound else 0
