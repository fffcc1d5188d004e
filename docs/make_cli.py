"""Write `reference/cli.md` from the help of every command; with `--check`, only compare."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from loratools.cli import cli

PAGE = Path(__file__).parent / "reference" / "cli.md"

_HEAD = """\
<!-- Made by docs/make_cli.py from the program's own help: run scripts/docs, do not edit. -->

# Command line

What `--help` prints, at 80 columns. The [guides](../how-to/inspect.md) explain what the options are
for, and [exit codes](exit-codes.md) what a command returns. `python -m loratools` is `loratools`.

## Options of every command

They may stand before the name of the command or after it: `loratools -q merge` is
`loratools merge -q`.

- `-q`, `--quiet`: print nothing but errors and, with `--json`, the report. The exit code stays.
- `-v`, `--verbose`: print on stderr the files that are read, each once, and the seconds that the
  command took. `merge` and `swap` also print what was done to each weight.
- `-V`, `--version`: print the version and exit.
- `-h`, `--help`: print the help of the program, or of the command, and exit.

## Weights of adapters

Where a command takes several adapters, `-w 0.7,0.3` is `-w 0.7 -w 0.3`: the weight of each, in
order. A weight may also stand after its adapter, `style.safetensors:0.7`; adapters without one have
1 then. It is what follows the last colon, if that is a number. A path that exists is taken as it
is, so `-w` is the way for a file whose name ends in `:0.7`.
"""
#: Click writes for 80 columns, less a margin of two, whatever the terminal.
_WIDTH = 78


def page() -> str:
    """The text of the page, from the current help."""
    return "\n".join([_HEAD, *(f"## {name}\n\n```text\n{text}\n```\n" for name, text in _helps())])


def _helps() -> Iterator[tuple[str, str]]:
    """The names of `loratools` and of each command, each with its help text."""
    with _context(cli, "loratools", None) as context:
        yield "loratools", cli.get_help(context)
        for name in cli.list_commands(context):
            command = cli.get_command(context, name)
            assert command is not None, name
            with _context(command, name, context) as inner:
                yield f"loratools {name}", command.get_help(inner)


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return command.make_context(
        name, [], parent=parent, resilient_parsing=True, terminal_width=_WIDTH
    )


def main() -> None:
    """Write the page, or with `--check` exit with an error if it is not current."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE}: not what --help says now; run scripts/docs")


if __name__ == "__main__":
    main()
