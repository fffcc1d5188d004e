"""What a run of a command should look like."""

import json
import re
from collections.abc import Callable
from typing import Any

from tests.e2e.commands import Result


def refused(result: Result, code: int, says: str) -> bool:
    """One line on stderr, nothing on stdout."""
    assert result.code == code, result
    assert result.out == ""
    *others, last = result.err.splitlines()
    assert last.startswith("Error: ")
    assert re.search(says, last), last
    assert len(last) <= 500
    assert last.isprintable()
    assert all(line.startswith("Usage: ") for line in others)
    return True


def refused_as_json(result: Result, code: int, **fields: Any) -> bool:
    """One line on stderr, which is the JSON of an error with these fields; nothing on stdout."""
    assert result.code == code, result
    assert result.out == ""
    assert result.err.isascii()
    assert result.err.count("\n") == 1
    error = json.loads(result.err)
    text = (str, None)
    assert is_object(
        error,
        kind=str,
        message=str,
        file=text,
        tensor=text,
        hint=text,
        exit_code=lambda c: c == code,
    )
    assert error["message"].isprintable()
    assert (error["hint"] or "") in error["message"] or error["kind"] == "UsageError"
    found = {name: error[name] for name in fields}
    assert found == fields
    return True


def is_object(value: dict[str, Any], **fields: Any) -> bool:
    """Whether `value` has these fields and no others, each of its type or as its function says.

    A tuple gives a choice, and a list of one says what its items are.
    """
    assert list(value) == list(fields)
    for name, wanted in fields.items():
        assert fits(value[name], wanted), (name, value[name])
    return True


def fits(
    found: Any, wanted: type | tuple[Any, ...] | list[Any] | Callable[[Any], bool] | None
) -> bool:
    """Whether a value is what one field should be."""
    if isinstance(wanted, type):
        return type(found) is wanted
    if isinstance(wanted, tuple):
        return any(fits(found, one) for one in wanted)
    if isinstance(wanted, list):
        return type(found) is list and all(fits(one, wanted[0]) for one in found)
    return found is None if wanted is None else wanted(found)
