"""Sizes as people write them: `500MB`, `5G`, `1.5GiB`."""

import re
from typing import overload

from loratools.errors import OptionError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)(B?)", re.IGNORECASE)
#: Below this a number without a unit is taken for one whose unit was forgotten.
_LEAST_WITHOUT_UNIT = 1000


@overload
def size_in_bytes(size: int | str) -> int: ...
@overload
def size_in_bytes(size: int | str | None) -> int | None: ...
def size_in_bytes(size: int | str | None) -> int | None:
    """A size in bytes, exactly: a number is that already, a text has decimal units or binary ones.

    >>> size_in_bytes("1.5kB"), size_in_bytes("1KiB"), size_in_bytes(512)
    (1500, 1024, 512)

    Raises:
        OptionError: a text is not a size, or has no unit and is below 1000; the size is below 1.
    """
    if size is None:
        return None
    text = str(size)
    match = _SIZE.fullmatch(text)
    if match is None or (match[3] and not match[2]):
        raise OptionError(f"{text!r:.60} is not a size like 500MB or 5GiB")
    from fractions import Fraction  # here, because help needs none of it

    number, letter, binary, byte = Fraction(match[1]), match[2].upper(), match[3], match[4]
    if isinstance(size, str) and not (letter or byte) and 0 < number < _LEAST_WITHOUT_UNIT:
        raise OptionError(
            f"{text!r} has no unit", hint=f"did you mean {text}MB? (bytes are {text}B)"
        )
    exponent = "KMGT".index(letter) + 1 if letter else 0
    found = int(number * (2**10 if binary else 10**3) ** exponent)  # exact, of any number of digits
    if found < 1:
        raise OptionError(f"{text!r:.60} is less than a byte")
    return found
