"""The weights with which adapters are added up."""

from collections.abc import Sequence

from loratools.errors import OptionError, check_finite


def weights_for(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """A weight for each of `count` adapters: 1 if none are given.

    Raises:
        OptionError: there are more or fewer, or one is a NaN or an infinity.
    """
    if weights is None:
        return (1.0,) * count
    if len(weights) != count:
        raise OptionError(f"{len(weights)} weights for {count} adapters")
    check_finite("weight", *weights)
    return tuple(weights)
