"""JSON read strictly: UTF-8, no duplicate keys, no half characters, no NaN."""

import json
import re
from collections import Counter
from typing import Any

from loratools.errors import FormatError, shorten

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(text: bytes, where: str) -> Any:
    """The value written in `text`.

    Raises:
        FormatError: it is not UTF-8, not JSON, or an object has a key twice.
    """
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique_fields,
            parse_int=_number,
            parse_constant=_refuse_constant,
        )
        if _ESCAPED_SURROGATE.search(text):
            encode_json(value)  # fails where a surrogate stands alone
        return value
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: not UTF-8 (byte {error.start})") from error
    except UnicodeEncodeError as error:
        raise FormatError(f"{where}: half a surrogate pair is no character") from error
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
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shorten(twice)!r} appears twice")
    return fields


def _number(digits: str) -> int | float:
    # As other readers have it: the integer 0 would lose the sign.
    return -0.0 if digits == "-0" else int(digits)


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
