"""The layout of help: lines broken between words only, and example commands that can be copied."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import final

import click

#: The widest that help is set: longer lines are hard to read.
MAX_WIDTH = 100
#: The share of a line that the names of options take, at most: longer names have their own line.
_NAMES_SHARE = 0.38
_GAP = 2
_NO_BREAK = "\N{NO-BREAK SPACE}"
#: In a command: an option and its value, and what is between quotes.
_WORDS_OF_ONE = re.compile(r"--?[\w-]+ (?=[^-\s])('[^']*')?|'[^']*'")
#: The same in a text, where a word after an option is none of its own, but a number is; and a
#: command, unless it is so long that a narrow line has no room for it.
_ONE_IN_TEXT = re.compile(r"(?<![\w-])--?[a-z][\w-]* (?=\d)|`[^`]{1,20}`")


@final
class Formatter(click.HelpFormatter):
    """Click's formatter, which would break `--dry-run` after its hyphen, and cut long words."""

    def write_text(self, text: str) -> None:
        """Write paragraphs, which an empty line separates."""
        paragraphs = (self._wrapped(each, self.current_indent) for each in text.split("\n\n"))
        self.write("\n\n".join(paragraphs) + "\n")

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = _GAP
    ) -> None:
        """Write names and their explanations in two columns."""
        rows = list(rows)
        most = round(self.width * _NAMES_SHARE) - self.current_indent - col_spacing
        names_width = min(max((len(name) for name, _ in rows), default=0), most)
        second = self.current_indent + names_width + col_spacing
        for name, text in rows:
            lines = self._wrapped(text, second).splitlines()
            start = " " * self.current_indent + name
            if lines and len(name) <= names_width:
                lines[0] = start.ljust(second) + lines[0].strip()
            else:
                lines.insert(0, start)
            self.write("\n".join(lines) + "\n")

    def write_example(self, what: str, command: str) -> None:
        """Write what a command does, and the command; one that is too long is continued."""
        self.write(self._wrapped(what, self.current_indent) + "\n")
        indent = self.current_indent + _GAP
        parts = self._wrapped(command, indent, len(" \\"), _WORDS_OF_ONE).splitlines()
        self.write(f" \\\n{' ' * _GAP}".join(parts) + "\n")

    def _wrapped(
        self, text: str, indent: int, room: int = 0, whole: re.Pattern[str] = _ONE_IN_TEXT
    ) -> str:
        """The text in lines, of which none begins inside of a match of `whole`."""
        margin = " " * indent
        words = filter(None, re.split(r"[ \n]+", text))  # and not at spaces without a break
        return textwrap.fill(
            whole.sub(lambda one: one[0].replace(" ", _NO_BREAK), " ".join(words)),
            max(self.width - room, indent + 1),
            initial_indent=margin,
            subsequent_indent=margin,
            break_on_hyphens=False,
            break_long_words=False,
        ).replace(_NO_BREAK, " ")


@final
class Context(click.Context):
    """A context whose help has this layout."""

    formatter_class = Formatter


def write_section(
    formatter: click.HelpFormatter, title: str, rows: Iterable[tuple[str, str]]
) -> None:
    """Write a section of names and explanations, unless it is empty."""
    if found := list(rows):
        with formatter.section(title):
            formatter.write_dl(found)


def write_examples(formatter: click.HelpFormatter, examples: Sequence[tuple[str, str]]) -> None:
    """Write a section of examples, each with what it does, unless there are none."""
    if examples and isinstance(formatter, Formatter):
        with formatter.section("Examples"):
            for what, command in examples:
                formatter.write_example(what, command)
