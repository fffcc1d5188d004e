"""Fetch an adapter or a base from the Hub."""

import click

from loratools.cli.command import PATH, Verb, section
from loratools.cli.json import json_option
from loratools.cli.output import overwrite_option
from loratools.cli.progress import progress_bar
from loratools.cli.reading import offline_option, variant_option
from loratools.cli.text import Answer


@click.command(
    "pull",
    short_help=__doc__,
    cls=Verb,
    arguments={"NAME": "owner/name[@revision][/path] on the Hub, with or without hf:// before it."},
    examples=(
        ("Fetch an adapter, and print where it is:", "loratools pull ann/style"),
        (
            "Fetch it into a folder, with the model that it is for:",
            "loratools pull ann/style -o style --include-base",
        ),
        (
            "Fetch the same bytes each time, or fail:",
            "loratools pull ann/style --lock loratools.lock",
        ),
    ),
)
@click.argument("name")
@section(
    "What is fetched",
    click.option(
        "--revision", metavar="NAME", help="A branch, a tag or a commit, as after @ in NAME."
    ),
    click.option(
        "--include-base", is_flag=True, help="Fetch the base that the adapter names, too."
    ),
    click.option(
        "--lock",
        type=PATH,
        metavar="FILE",
        help="Keep to the commits and hashes in this file, and add what is new.",
    ),
    variant_option,
)
@section(
    "Output",
    click.option(
        "-o",
        "--output",
        type=PATH,
        metavar="FOLDER",
        help="A folder to copy the files to.  [default: they stay in the cache]",
    ),
    overwrite_option,
)
@offline_option
@json_option
def command(
    name: str,
    output: str | None,
    overwrite: bool,
    revision: str | None,
    include_base: bool,
    lock: str | None,
    variant: str | None,
    as_json: bool,
) -> None:
    """Fetch NAME, which is owner/name[@revision][/path], with or without hf:// before it.

    All files are of one commit, and each is verified against the hash that the Hub lists for it.
    Without --output they stay in the cache, and the folder there is printed. --lock FILE records
    commits and SHA-256 hashes, and from then on anything else is refused.
    """
    from loratools.publishing.pull import pull

    answer = Answer(as_json=as_json)
    with progress_bar() as progress:
        pull(
            name,
            output=output,
            revision=revision,
            include_base=include_base,
            lock=lock,
            overwrite=overwrite,
            variant=variant,
            progress=progress,
            approve=answer.approve,
        )
    answer.print()
