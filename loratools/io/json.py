"""JSON read and written strictly: UTF-8, no duplicate keys, no half characters, finite numbers.

All JSON of the package is made here. What is read can be written again: a number beyond float64,
such as 1e400, is refused, since readers make an infinity of it, which JSON does not have.
Integers stay exact; other numbers have the value of the nearest float64, as to other readers.
"""

import json
import math
import re
from collections import Counter
from typing import Any

from loratools.errors import FormatError, NonFiniteError, shorten

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
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_refuse_constant,
        )
        if _ESCAPED_SURROGATE.search(text):
            json_text(value).encode()  # fails where a surrogate stands alone
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


def encode_json(value: object, *, sort_keys: bool = False) -> bytes:
    """`value` as people read it: indented, keys in the order given, a newline at the end.

    Raises:
        NonFiniteError: a number in it is a NaN or an infinity.
        FormatError: a text in it is not Unicode, as a path can be.
    """
    text = json_text(value, indent=2, sort_keys=sort_keys)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 40) : error.end]
        raise FormatError(f"{near!r}: not Unicode, which JSON has to be") from error


def json_text(value: object, **style: Any) -> str:
    """`value` on one line, or in another style of `json.dumps`.

    Raises:
        NonFiniteError: a number in it is a NaN or an infinity.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, **style)
    except ValueError as error:
        raise NonFiniteError("a NaN or an infinity, where JSON has no number for it") from error


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shorten(twice)!r} appears twice")
    return fields


def _integer(digits: str) -> int | float:
    _float(digits)
    # As other readers have it: the integer 0 would lose the sign.
    return -0.0 if digits == "-0" else int(digits)


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {shorten(text, 20)} is beyond what a float64 can hold")
    return number


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
