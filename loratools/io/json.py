"""JSON read strictly: UTF-8, no duplicate keys, no NaN."""

import json
from typing import Any

from loratools.errors import FormatError, shorten


def parse_json(text: bytes, where: str) -> Any:
    """The value written in `text`.

    Raises:
        FormatError: it is not UTF-8, not JSON, or an object has a key twice.
    """
    try:
        return json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique_fields,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: not UTF-8 (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not valid JSON: {error}") from error


def parse_json_object(text: bytes, where: str) -> dict[str, Any]:
    """The object written in `text`; `parse_json`'s errors, and one for any other value."""
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise FormatError(f"{where}: must be a JSON object, is {type(value).__name__}")
    return value


def encode_json(value: object) -> bytes:
    """`value` as people read it: indented, keys in the order given, a newline at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in fields if keys.count(key) > 1)
        raise ValueError(f"the key {shorten(twice)!r} appears twice")
    return fields


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
