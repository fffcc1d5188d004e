"""Publish an adapter or a merged model on the Hub."""

from typing import Any

import click

from loratools.cli.command import PATH, Verb, section
from loratools.cli.json import json_option, print_json
from loratools.cli.output import dry_run_option
from loratools.cli.progress import progress_bar
from loratools.cli.reading import variant_option
from loratools.cli.tables import shown_lines
from loratools.cli.text import print_lines


@click.command(
    "push",
    short_help=__doc__,
    cls=Verb,
    arguments={
        "FOLDER": "The folder of an adapter or of a model.",
        "OWNER/NAME": "The repository on the Hub.",
    },
    examples=(
        (
            "See what would be sent:",
            "loratools push adapter ann/style --create --base ann/model --dry-run",
        ),
        (
            "Publish an adapter, in a new repository that only you see:",
            "loratools push adapter ann/style --create --private --base ann/model",
        ),
        (
            "Propose a change of a repository, as a pull request:",
            "loratools push adapter ann/style --pr --message 'Rank 8'",
        ),
    ),
)
@click.argument("folder", type=PATH)
@click.argument("repo", metavar="OWNER/NAME")
@section(
    "The commit",
    click.option("--create", is_flag=True, help="Make the repository if there is none."),
    click.option("--private", is_flag=True, help="With --create: only its owners see it."),
    click.option(
        "--branch",
        metavar="NAME",
        default="main",
        show_default=True,
        help="Commit to this branch, which is made if there is none.",
    ),
    click.option("--pr", "proposes", is_flag=True, help="Open a pull request for main instead."),
    click.option("--message", metavar="TEXT", help="The commit's message."),
    click.option("--tag", metavar="NAME", help="Give the commit a tag."),
    dry_run_option,
)
@section(
    "What is sent",
    click.option("--base", metavar="OWNER/NAME", help="The base to name in the pushed config."),
    click.option(
        "--all", "all_files", is_flag=True, help="Send the other files of the folder too."
    ),
    variant_option,
)
@section(
    "The model card, README.md",
    click.option("--license", metavar="NAME", help="The license, such as apache-2.0 or mit."),
    click.option(
        "--report",
        "reports",
        type=PATH,
        multiple=True,
        metavar="FILE",
        help="What a command printed with --json, for the card; the oldest first.",
    ),
    click.option(
        "--template",
        type=PATH,
        metavar="FILE",
        help="A Jinja2 template for the card's section.",
    ),
    click.option("--no-card", is_flag=True, help="Leave README.md as it is."),
)
@json_option
def command(
    folder: str,
    repo: str,
    reports: tuple[str, ...],
    no_card: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Send an adapter's or a model's FOLDER to a repository, as one commit.

    Only files that differ are sent; if none does, no commit is made. Refused are NaNs and
    infinities, a local path as the base, pickles, and files that belong to no adapter or model. A
    model card is written, or the existing one completed. Needs a token that may write, in HF_TOKEN
    or from a login.
    """
    from loratools.publishing.push import push
    from loratools.publishing.push_options import PushOptions

    options = PushOptions(**settings, reports=reports, card=not no_card)
    with progress_bar() as progress:
        report = push(folder, repo, options, progress=progress)
    if as_json:
        print_json(report)
    else:
        print_lines(shown_lines(report.shown()))
