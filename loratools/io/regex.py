"""Regular expressions that somebody else wrote, matched by Python's `re` in a process with limits.

`re` can take longer than the age of the universe for a pattern of ten characters, and cannot be
stopped. A process can: it has so many seconds and so much memory for all patterns together.
"""

import marshal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Literal, final

from loratools.io.failures import storage_errors

#: The limits for all patterns of a call together: seconds of CPU time, and bytes of memory.
CPU_SECONDS = 2
MEMORY_BYTES = 2**30
#: The limit of real time: for systems that cannot limit CPU time, and for busy machines.
WALL_SECONDS = 10
_PROGRAM = Path(__file__).with_name("_regex_program.py")


@final
@dataclass(frozen=True)
class Regex:
    """A pattern, and the function of `re` that matches it: at a text's start, or as a whole."""

    pattern: str
    rule: Literal["match", "fullmatch"] = "match"


@final
@dataclass(frozen=True)
class Answer:
    """The texts that match, each with what the group `idx` captured; or why that is not known."""

    hits: Mapping[str, str | None] = field(default_factory=dict)
    fault: str | None = None


def search(regexes: Sequence[Regex], texts: Sequence[str]) -> list[Answer]:
    """For each pattern, which of the texts it matches according to Python's `re`.

    The answers end with the first pattern that takes too long.

    Raises:
        StorageError: no process can be started.
    """
    if not regexes:
        return []
    questions = [(regex.rule, regex.pattern) for regex in regexes]
    request = marshal.dumps((CPU_SECONDS, MEMORY_BYTES, questions, list(texts)))
    answers = [_answer(found, texts) for found in _loaded(_run(request))]
    if len(answers) < len(regexes):
        answers.append(Answer(fault=f"takes longer than {CPU_SECONDS} s to be matched"))
    return answers


def _answer(found: str | list[tuple[int, str | None]], texts: Sequence[str]) -> Answer:
    if isinstance(found, str):
        return Answer(fault=found)
    return Answer({texts[at]: group for at, group in found})


def _run(request: bytes) -> bytes:
    """The output of the process up to its end, or up to where it was stopped."""
    # Isolated, and without site-packages: it starts in 15 ms, and imports nobody else's code.
    command = [sys.executable, "-I", "-S", str(_PROGRAM)]
    try:
        with storage_errors("a process for regular expressions"):
            output = subprocess.run(
                command,
                input=request,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=WALL_SECONDS,
                check=False,
            ).stdout
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
    return output


def _loaded(output: bytes) -> Iterator[str | list[tuple[int, str | None]]]:
    """The answers in the output; an incomplete one at the end is dropped."""
    stream = BytesIO(output)
    while True:
        try:
            yield marshal.load(stream)
        except EOFError:
            return
