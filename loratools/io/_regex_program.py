"""The program of the process that `regex.py` starts: Python's `re`, within limits.

It reads `(seconds, bytes, [(rule, pattern), …], [text, …])`, and answers each pattern as soon as it
can: with the positions of the texts that match and what the group `idx` captured in each, or with
what is wrong with the pattern. Both sides run the same interpreter, so they use its own `marshal`.
"""

import marshal
import re
import sys


def _main() -> None:
    seconds, size, questions, texts = marshal.load(sys.stdin.buffer)
    _limit(seconds, size)
    for rule, pattern in questions:
        marshal.dump(_answer(rule, pattern, texts), sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _limit(seconds: int, size: int) -> None:
    try:
        import resource
    except ImportError:  # on Windows, where only the caller's limit of real time applies
        return
    for limit, value in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, size)):
        try:
            resource.setrlimit(limit, (value, value))
        except (OSError, ValueError):  # macOS has RLIMIT_AS, and refuses to set it
            continue


def _answer(rule: str, pattern: str, texts: list[str]) -> list[tuple[int, str | None]] | str:
    try:
        compiled = re.compile(pattern)
        search = compiled.fullmatch if rule == "fullmatch" else compiled.match
        return [
            (at, found.groupdict().get("idx"))
            for at, text in enumerate(texts)
            if (found := search(text))
        ]
    except re.error as error:
        return f"is not a regular expression: {error.msg}"
    except (MemoryError, OverflowError, RecursionError):
        return "is too deep or too large a regular expression"


if __name__ == "__main__":
    _main()
