"""JSON read and written strictly: UTF-8, no duplicate keys, no lone surrogates, finite numbers.

All JSON of the package is read and written here. What is read can be written again: a number beyond
float64, such as 1e400, is refused, since readers make an infinity of it, which JSON does not have.
So is one that is too small for it, such as 1e-400, since they make a 0 of it, which means something
else. Integers stay exact; other numbers have the value of the nearest float64, as to other readers.
Nesting is limited, so that code that recurses over values never reaches Python's recursion limit.
"""

import codecs
import json
import math
import re
from collections import Counter
from typing import Any

from loratools.errors import FormatError, NonFiniteError, shorten

#: The most levels of lists and objects. Real files have ten; recursion fails at about 1000.
_DEEPEST = 100
_NESTS = (dict, list)
_TOO_DEEP = f"not valid JSON: lists and objects in each other, more than {_DEEPEST} deep"
#: Integers of at most so many digits are within the range of float64.
_MOST_DIGITS = 308
#: Matches a number with a digit before the exponent that is not 0.
_NOT_ZERO = re.compile(r"[-0.]*[1-9]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(text: bytes, where: str) -> Any:
    """The value written in `text`.

    Raises:
        FormatError: it is not UTF-8, not JSON, an object has a key twice, or it is nested more
            than 100 deep.
    """
    if text.startswith(codecs.BOM_UTF8):
        raise FormatError(
            f"{where}: not valid JSON: it begins with a byte order mark (BOM)",
            hint="save it in UTF-8 without one",
        )
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique_fields,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_refuse_constant,
        )
        # Without so many brackets nothing can be deep, and the values need no look.
        if text.count(b"[") + text.count(b"{") > _DEEPEST:
            _check_depth(value)
        if _ESCAPED_SURROGATE.search(text):
            json_text(value).encode()  # fails where a surrogate stands alone
        return value
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: not UTF-8 (byte {error.start})") from error
    except UnicodeEncodeError as error:
        raise FormatError(f"{where}: half a surrogate pair is no character") from error
    except RecursionError:
        raise FormatError(f"{where}: {_TOO_DEEP}") from None
    except ValueError as error:
        raise FormatError(f"{where}: not valid JSON: {error}") from error


def parse_json_object(text: bytes, where: str) -> dict[str, Any]:
    """The object written in `text`.

    Raises:
        FormatError: as for `parse_json`; or the value is not an object.
    """
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise FormatError(f"{where}: must be a JSON object, is {in_json(value)}")
    return value


def in_json(value: object) -> str:
    """A value as it is written in JSON, shortened: for the message about a value that is wrong.

    >>> in_json(None), in_json({"r": "8"})
    ('null', '{"r": "8"}')
    """
    return shorten(json.dumps(value, ensure_ascii=False, default=repr), 40)


def encode_json(value: object, *, sort_keys: bool = False) -> bytes:
    """`value` as people read it: indented, keys in the order given, a newline at the end.

    Raises:
        NonFiniteError: a number in it is a NaN or an infinity.
        FormatError: a string in it is not valid Unicode, as may happen with a path.
    """
    text = json_text(value, indent=2, sort_keys=sort_keys)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 40) : error.end]
        raise FormatError(f"{near!r}: not Unicode, which JSON has to be") from error


def json_text(value: object, *, is_ascii: bool = False, **style: Any) -> str:
    """`value` on one line, or in another style of `json.dumps`; `is_ascii` escapes all else.

    Raises:
        NonFiniteError: a number in it is a NaN or an infinity.
    """
    try:
        return json.dumps(value, ensure_ascii=is_ascii, allow_nan=False, **style)
    except ValueError as error:
        raise NonFiniteError("a NaN or an infinity, where JSON has no number for it") from error


def _check_depth(value: Any, levels: int = _DEEPEST) -> None:
    """Raise a `RecursionError` if lists and objects are nested in more levels."""
    if type(value) not in _NESTS:
        return
    if not levels:
        raise RecursionError
    for inner in value.values() if type(value) is dict else value:
        if type(inner) in _NESTS:
            _check_depth(inner, levels - 1)


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shorten(twice)!r} appears twice")
    return fields


def _integer(digits: str) -> int | float:
    if len(digits) > _MOST_DIGITS:
        _float(digits)
    # Other readers make a -0.0 of it; the integer 0 would lose the sign.
    return -0.0 if digits == "-0" else int(digits)


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {shorten(text, 20)} is beyond what a float64 can hold")
    if not number and _NOT_ZERO.match(text):
        raise ValueError(f"the number {shorten(text, 20)} is smaller than any of float64's, but 0")
    return number


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
