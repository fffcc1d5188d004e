"""The command line: a file for each verb in `verbs/`, and beside it what they share."""

import contextlib
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import NoReturn

import click

from loratools import registry
from loratools.cli import verbs
from loratools.cli.command import CONTEXT_SETTINGS, common_options
from loratools.cli.failures import Stopped, exit_code, failure, message
from loratools.cli.json import asks_for_json
from loratools.cli.layout import Context, write_examples, write_section
from loratools.cli.signals import Stoppable, ignore_signals
from loratools.cli.unknown import no_such_command, option_of_a_command
from loratools.typed import on_command_line

#: The verbs in the order of the help, and its headings.
_GROUPS = {
    "Look at adapters": ("inspect", "formats"),
    "Put adapters into a model": ("merge", "swap"),
    "Change and combine adapters": ("rescale", "resize", "combine", "convert"),
    "Make an adapter from two models": ("svd-extract",),
    "Fetch from the Hub, and publish there": ("pull", "push"),
}
_EXAMPLES = (
    ("See what is in an adapter:", "loratools inspect style.safetensors"),
    (
        "Put an adapter into a model at 70% of its strength:",
        "loratools merge model adapter:0.7 -o merged",
    ),
)
_MORE = "`loratools COMMAND --help` explains a command, with its options and examples."


class _Verbs(click.Group):
    """A group with the `command` of each file in `cli/verbs/`, imported when it is needed."""

    context_class = Context

    def invoke(self, ctx: click.Context) -> object:
        """Run a command. Click would print an empty line on stderr at Ctrl-C, before ours."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped(signal.SIGINT) from error

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options of the program; one of a command is said to belong after it."""
        try:
            return super().parse_args(ctx, [*args])
        except click.NoSuchOption as error:
            commands = self.list_commands(ctx)
            for name in (*(arg for arg in args if arg in commands), *commands):
                command = self.get_command(ctx, name)
                if command and any(error.option_name in param.opts for param in command.params):
                    raise option_of_a_command(error, name, ctx) from error
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in self._groups().values() for name in names]

    def _groups(self) -> dict[str, list[str]]:
        """The verbs by heading; those without one are under the last."""
        found = {name.replace("_", "-"): "Others" for name in registry.names(verbs)}
        groups = {
            title: [name for name in names if name in found] for title, names in _GROUPS.items()
        }
        listed = {name for names in groups.values() for name in names}
        return groups | {"Others": [name for name in found if name not in listed]}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their short help, without importing any."""
        for title, names in self._groups().items():
            rows = [(n, registry.first_line(verbs, n.replace("-", "_"))) for n in names]
            write_section(formatter, title, rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write examples, and where to read on."""
        write_examples(formatter, _EXAMPLES)
        formatter.write_paragraph()
        formatter.write_text(_MORE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = registry.load(verbs, cmd_name.replace("-", "_")).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of the first argument; another one is answered by what was meant."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(no_such_command(args, self.list_commands(ctx)))
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, context_settings=CONTEXT_SETTINGS)
def cli() -> None:
    """Inspect, merge and reshape stored LoRA adapters: exact and streaming."""


cli.params += common_options()


def main() -> NoReturn:
    """Run the command line, and exit with its code."""
    code = run()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    # Exit at once: the interpreter would first spend a third of a second on tearing down torch.
    os._exit(code)


def run() -> int:
    """Run the command line and return its exit code; a failure prints one line."""
    _open_standard_files()
    # Click's standalone mode would turn Ctrl-C into exit code 1.
    command = Stoppable(lambda: cli.main(prog_name="loratools", standalone_mode=False))
    try:
        with on_command_line(), _without_warnings():
            status = command.run()
        sys.stdout.flush()
        code = status if isinstance(status, int) else 0
    except BaseException as error:
        ignore_signals()
        code = exit_code(error)
        if (text := _text(error, code)) is not None:
            with contextlib.suppress(OSError):  # stderr may be closed, too
                click.echo(text, err=True)
    ignore_signals()
    return code


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Print no warnings and no bars of libraries: they are for programmers, and are no JSON.

    LORATOOLS_DEBUG=1 shows the warnings, except with --json, for which stderr is one object.
    """
    if asks_for_json():
        # Read when the Hub's client is imported, which happens later.
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    elif os.environ.get("LORATOOLS_DEBUG") == "1":
        yield
        return
    with warnings.catch_warnings():
        # The last step of a warning that is to be printed, whatever filters a library has set.
        warnings.showwarning = lambda *arguments, **keywords: None
        yield


def _text(error: BaseException, code: int) -> str | None:
    """What is printed of a failure: a line, a traceback, or one JSON object; None if nothing."""
    is_debugged = os.environ.get("LORATOOLS_DEBUG") == "1"
    if asks_for_json():
        said = failure(error, sys.argv[1:])
        if said is None:
            return None
        fields: dict[str, object] = {**said._asdict(), "exit_code": code}
        if is_debugged:
            fields["traceback"] = traceback.format_exc()
        from loratools.io.json import json_text

        shown = {n: _redacted(v) if isinstance(v, str) else v for n, v in fields.items()}
        return json_text(shown, is_ascii=True)  # a pipe may not take anything else
    text = traceback.format_exc().rstrip("\n") if is_debugged else message(error)
    return None if text is None else _redacted(text)


def _redacted(text: str) -> str:
    """`text` without the Hub's token, which is only read where the Hub's modules are imported."""
    token = sys.modules.get("loratools.hub.token")
    return text if token is None else str(token.redacted(text))


def _open_standard_files() -> None:
    """Open standard files that are closed, and let any file name be printed.

    Otherwise the next file that is opened, a model perhaps, would be stdout and be printed into.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest free number, which is this one. Read-only, so that printing fails.
            os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
