"""argv → one call → output: a file a command, shared options in `options.py`."""

import contextlib
import importlib
import io
import os
import sys
import traceback
from typing import NoReturn

import click

import loratools
from loratools.cli.failures import exit_code, message
from loratools.cli.signals import Stoppable, ignore_signals

#: Commands in the order of the help page; each is a module here with a function `command`.
_COMMANDS = {
    "inspect": "Describe an adapter.",
    "merge": "Merge adapters into a base model.",
    "rescale": "Make an adapter stronger or weaker.",
    "combine": "Combine adapters of one base into one.",
    "resize": "Store an adapter at other ranks.",
    "svd-extract": "Make an adapter of a fine-tuned model and its base.",
    "pull": "Fetch an adapter or a base from the Hub.",
    "push": "Publish an adapter or a merged model on the Hub.",
}


class _LazyGroup(click.Group):
    """Imports a command when it is called, so that `--help` imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"loratools.cli.{cmd_name.replace('-', '_')}_command")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(loratools.__version__, prog_name="loratools")
def cli() -> None:
    """Inspect, merge and reshape stored LoRA adapters: exact and streaming."""


def main() -> NoReturn:
    """Run the command line, and exit with its code."""
    code = run()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    # At once: to take torch apart first would take the interpreter a third of a second.
    os._exit(code)


def run() -> int:
    """The exit code of the command line; every failure is one line."""
    _open_standard_files()
    # Click's standalone mode would turn Ctrl-C into exit code 1.
    command = Stoppable(lambda: cli.main(prog_name="loratools", standalone_mode=False))
    try:
        status = command.run()
        sys.stdout.flush()
        code = status if isinstance(status, int) else 0
    except BaseException as error:
        ignore_signals()
        code = exit_code(error)
        if os.environ.get("LORATOOLS_DEBUG") == "1":
            click.echo(_redacted(traceback.format_exc()), err=True, nl=False)
        elif (text := message(error)) is not None:
            with contextlib.suppress(OSError):  # nobody listens there either
                click.echo(_redacted(text), err=True)
    ignore_signals()
    return code


def _redacted(text: str) -> str:
    """`text` without the Hub's token, which is read for the Hub only."""
    token = sys.modules.get("loratools.hub.token")
    return text if token is None else str(token.redacted(text))


def _open_standard_files() -> None:
    """See that no model is opened as stdout and printed into, and that any name can be printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It takes the lowest free number, which is this one; printing to stdout has to fail.
            os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
