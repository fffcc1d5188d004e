"""The program of the process that `regex.py` starts: Python's `re`, within limits.

It reads one JSON object, `{"limits": [seconds, bytes], "questions": [[rule, pattern], …],
"texts": […]}`, and answers each question with one line as soon as it has the answer: the positions
of the texts that match, each with what the group `idx` holds, or what is wrong with the pattern.
"""

import json
import re
import sys


def _main() -> None:
    request = json.load(sys.stdin)
    _limit(*request["limits"])
    for rule, pattern in request["questions"]:
        sys.stdout.write(json.dumps(_answer(rule, pattern, request["texts"])) + "\n")
        sys.stdout.flush()


def _limit(seconds: int, size: int) -> None:
    try:
        import resource
    except ImportError:  # on Windows, where only the clock of the process that waits counts
        return
    for limit, value in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, size)):
        try:
            resource.setrlimit(limit, (value, value))
        except (OSError, ValueError):  # macOS knows RLIMIT_AS and does not set it
            continue


def _answer(rule: str, pattern: str, texts: list[str]) -> object:
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
