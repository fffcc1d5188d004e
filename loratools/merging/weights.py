"""The weights with which adapters are added up."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import cast, final

from loratools.adapter import Adapter
from loratools.checks import check_finite
from loratools.deltas import Delta
from loratools.errors import OptionError, counted
from loratools.files.opening import AdapterLike
from loratools.names.block_weights import UNWEIGHTED, BlockWeights, block_weights_of

#: A name with a weight after a colon.
_WITH_WEIGHT = re.compile(r"(.+):([+-]?(?:\d+\.?\d*|\.\d+))")
#: An adapter with its weight: `("a", 0.7)`.
Weighted = tuple[AdapterLike, float]
#: What a verb takes as adapters: one, or several, each alone or with its weight.
Adapters = AdapterLike | Weighted | Sequence[AdapterLike | Weighted]


@final
@dataclass(frozen=True)
class Weight:
    """The weight of an adapter, and those of its blocks."""

    whole: float
    blocks: BlockWeights = UNWEIGHTED

    def of(self, target: str) -> float:
        """The weight of one target."""
        return self.whole * self.blocks.of(target)

    def given_to(self, delta: Delta, target: str) -> tuple[Delta, float, float]:
        """The change with the weight of its block, the strength to bind it with, and that weight.

        An additive change is scaled as `rescale` scales it, so that the result is that of an
        adapter which was rescaled by blocks. Any other has all of its weight in the strength.
        """
        block = self.blocks.of(target)
        if delta.additive is None:
            return delta, self.whole * block, 1.0
        return delta.scaled(block), self.whole, block


def weights_with_blocks(
    weights: Sequence[float], texts: Sequence[str] | None, adapters: Sequence[Adapter]
) -> tuple[Weight, ...]:
    """The weight of each adapter, with the weights of blocks that its text gives.

    Raises:
        OptionError: there are more or fewer texts than adapters, or one is not clear.
        MatchError: a text does not fit its adapter.
    """
    if texts is None:
        return tuple(map(Weight, weights))
    if len(texts) != len(adapters):
        raise OptionError(
            f"{counted(len(texts), 'block weight')} for {counted(len(adapters), 'adapter')}"
        )
    blocks = map(block_weights_of, texts, adapters)
    return tuple(map(Weight, weights, blocks))


def weights_for(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """A weight for each of `count` adapters: 1 if none are given.

    Raises:
        OptionError: there are more or fewer, or one is a NaN or an infinity.
    """
    if weights is None:
        return (1.0,) * count
    if len(weights) != count:
        raise OptionError(f"{counted(len(weights), 'weight')} for {counted(count, 'adapter')}")
    check_finite("weight", *weights)
    return tuple(weights)


def weighted(
    adapters: Adapters, weights: Sequence[float] | None
) -> tuple[list[AdapterLike], tuple[float, ...]]:
    """The adapters and a weight for each: that of its pair, or of `weights`; 1 by default.

    Raises:
        OptionError: weights are given in both ways, are too many or too few, or not finite.
    """
    pairs: list[tuple[AdapterLike, float | None]] = [
        item if isinstance(item, tuple) else (item, None) for item in _items(adapters)
    ]
    names = [adapter for adapter, _ in pairs]
    _refuse_weights_in(names)
    own = [weight for _, weight in pairs if weight is not None]
    if own and weights is not None:
        raise OptionError("weights are given beside adapters and as weights", hint="give them once")
    if own:
        weights = [1.0 if weight is None else weight for _, weight in pairs]
    return names, weights_for(weights, len(names))


def _refuse_weights_in(names: Sequence[AdapterLike]) -> None:
    """Refuse a name that is written with its weight, as the command line has it: `style:0.7`."""
    for name in names:
        if not isinstance(name, str) or os.path.lexists(name):
            continue
        if found := _WITH_WEIGHT.fullmatch(name):
            raise OptionError(
                f"{name}: the weight of an adapter is no part of its name",
                hint=f"give the pair ({found[1]!r}, {float(found[2])})",
            )


def _items(adapters: Adapters) -> Sequence[AdapterLike | Weighted]:
    """One adapter, alone or with its weight, as the only one of a list."""
    if isinstance(adapters, str | Path | Adapter):
        return [adapters]
    if isinstance(adapters, tuple) and len(adapters) == 2 and isinstance(adapters[1], Real):
        return [cast("Weighted", adapters)]
    return cast("Sequence[AdapterLike | Weighted]", adapters)
