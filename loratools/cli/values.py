"""What options take: numbers, sizes, lists and choices; other values are answered by them."""

from typing import Any, final

import click

from loratools.errors import OptionError
from loratools.formats import Option
from loratools.io.sizes import size_in_bytes
from loratools.nearest import did_you_mean, number_meant


class OneOf(click.Choice[str]):
    """One of several values; another one is answered by the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """`value`, if it is one of the choices."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            hint = did_you_mean(str(value), self.choices)
            self.fail(error.message.removesuffix(".") + (hint or "."), param, ctx)

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        """The choices on one line, as messages are; Click's own has a line for each."""
        return f"Choose from {', '.join(self.choices)}."


class Count(click.IntRange):
    """A whole number from 1 on, which is called an integer in messages."""

    name = "integer"


class Size(click.ParamType[int]):
    """A number of bytes: `500MB`, `5G`, `1.5GiB`; decimal units unless they have an i."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse `value` as a number of bytes, exactly."""
        try:
            size: int = size_in_bytes(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)
        return size


class GlobFactor(click.ParamType[tuple[str, float]]):
    """A glob and a number: `model.layers.[0-9].*=0.5`."""

    name = "glob=number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """Parse `value` into the glob and the number after the last `=`."""
        if isinstance(value, tuple):
            return value
        glob, _, number = str(value).rpartition("=")
        try:
            strength = float(number if glob else "")
        except ValueError:
            self.fail(f"{value!r} is not a pattern and a number, like '*.mlp.*=0.5'", param, ctx)
        return glob, strength


@final
class WeightList(click.ParamType[tuple[float, ...]]):
    """A number, or several with commas between them: `0.7,0.3`."""

    name = "weights"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Parse `value` as numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(number) for number in str(value).split(","))
        except ValueError:
            meant = number_meant(str(value))
            hint = f"did you mean {meant}?" if meant else "write 0.7, or several as in 0.7,0.3"
            self.fail(f"{value!r} is not a number, nor a list without spaces; {hint}", param, ctx)


class ValueOrNumber(click.ParamType[str]):
    """A value of a dialect's option that may also be a number: `auto`, `16`."""

    name = "value or number"

    def __init__(self, option: Option) -> None:
        self._option = option

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The values and the name of the number, as `--help` shows them."""
        return f"[{'|'.join((*self._option.values, str(self._option.number)))}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text itself, if the option can have this value."""
        if not self._option.takes(value):
            self.fail(f"{value!r} is not {self._option.choices}", param, ctx)
        return str(value)
