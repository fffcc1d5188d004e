"""Checks of the values that options have."""

import math
from collections.abc import Iterable

from loratools.errors import OptionError
from loratools.nearest import did_you_mean


def check_finite(name: str, *numbers: float) -> None:
    """Refuse an option that is a NaN or an infinity.

    Raises:
        OptionError: one of the numbers is not finite.
    """
    for number in numbers:
        if not math.isfinite(number):
            raise OptionError(f"{name} is a finite number, not {number}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse the value of an option that is not one of its choices; None is not given.

    Raises:
        OptionError: it is another one; the message names the nearest.
    """
    choices = list(choices)
    if value is not None and value not in choices:
        hint = did_you_mean(str(value), choices)
        raise OptionError(f"{name} is one of {', '.join(choices)}, not {value!r:.60}{hint}")


def percent_meant(share: float) -> str | None:
    """The hint for a share that is too large, and may be given in percent."""
    return f"did you mean {share / 100:g}?" if 2 <= share <= 100 else None
