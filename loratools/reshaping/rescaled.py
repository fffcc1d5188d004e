"""Makes updates stronger or weaker, or stores the same updates with another scaling."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from loratools.adapter import Adapter
from loratools.arguments import checked_fields
from loratools.checks import check_choice, check_finite
from loratools.deltas import Delta, with_alpha
from loratools.deltas.lora import LoRA, Rule
from loratools.errors import (
    FormatError,
    NonFiniteError,
    OptionError,
    UnsupportedError,
    listing,
    shorten,
)
from loratools.io.computed import multiplied
from loratools.names.block_weights import UNWEIGHTED, BlockWeights, block_weights_of
from loratools.names.globs import matches, no_match
from loratools.parts import Update
from loratools.reshaping.factors import scaling_of
from loratools.showing.shown import Brief
from loratools.typed import flag

#: The scaling rules, by their names on the command line.
RULES: Mapping[str, Rule] = {"alpha-over-rank": "rank", "rslora": "sqrt_rank"}


@checked_fields
@final
@dataclass(frozen=True, repr=False)
class Rescaling(Brief):
    """The choices of how to rescale; only strengths and `alpha` change updates.

    Attributes:
        strength: multiply every update by this.
        where: multiply the strength of targets that match by F, for each pair of a glob and F:
            `[("*.attn.*", 0.5)]`; of several that match, the last counts.
        block_weights: weights of the blocks of an image model, as a text: a list of numbers, a
            preset, or blocks by name (`OUTD`, `IN04=0.5`).
        alpha: set the alpha of every update, which changes its strength.
        fold: multiply the scaling into the factors, so that alpha = rank.
        rule: write the alpha that gives the same strength under this rule: `alpha-over-rank`, or
            `rslora` for alpha / √rank.
        balance: give the two factors of each update about the same norm, within a factor of 2.
        keep_replaced: keep tensors that are stored whole as they are; they have no strength.

    Example:
        >>> import loratools
        >>> rescaling = loratools.Rescaling(where=[("*.mlp.*", 0.5)], fold=True)
        >>> milder = loratools.rescale("fixtures/adapters/plain", rescaling=rescaling)
        >>> milder["layers.0.mlp.up_proj"].scaling
        1.0
    """

    strength: float = 1.0
    where: Sequence[tuple[str, float]] = ()
    block_weights: str | None = None
    alpha: float | None = None
    fold: bool = False
    rule: Literal["alpha-over-rank", "rslora"] | None = None
    balance: bool = False
    keep_replaced: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite, and options that contradict each other."""
        check_finite("strength", self.strength, *(strength for _, strength in self.where))
        check_finite("alpha", self.alpha or 0.0)
        check_choice("rule", self.rule, ("alpha-over-rank", "rslora"))
        if self.fold and (self.rule == "rslora" or self.alpha is not None):
            raise OptionError("folding sets alpha to the rank: no other alpha or rule fits")


@final
@dataclass(frozen=True)
class Rescaled:
    """The rescaled adapter, the factor of each update by target, and notes."""

    adapter: Adapter
    strengths: Mapping[str, float]
    notes: tuple[str, ...]


def rescaled(adapter: Adapter, rescaling: Rescaling) -> Rescaled:
    """Give the adapter other strengths, or store the same strengths in another way.

    Strengths go into alpha, where they are exact. Factors change only with `fold`, `balance` and
    a strength of zero, because some readers take an alpha of zero for one that is not set.

    Raises:
        MatchError: a glob matches no target, or block weights do not fit the adapter.
        NonFiniteError: an alpha would be too large for a number.
        UnsupportedError: a kind or a whole tensor cannot get another strength, folding rounds a
            factor to zero, or the adapter cannot be merged exactly.
    """
    adapter.check_usable()
    blocks = _blocks(adapter, rescaling)
    local = strengths_of(tuple(adapter.updates), rescaling.where)
    local = {t: rescaling.strength * where * blocks.of(t) for t, where in local.items()}
    strengths = {
        target: local[target] * _by_alpha(update.delta, rescaling)
        for target, update in adapter.updates.items()
    }
    updates = {}
    for target, update in adapter.updates.items():
        try:
            delta = _rescaled(update.delta, local[target], rescaling)
        except UnsupportedError as error:
            raise error.within(adapter.where, target) from error
        except FormatError as error:  # of an alpha above 1.8e308
            raise NonFiniteError(
                f"{adapter.where}: {shorten(target)}: no number holds its alpha at this strength",
                tensor=target,
                hint="use a smaller one",
            ) from error
        updates[target] = replace(update, delta=delta)
    notes = _whole_tensors(adapter, rescaling, blocks)
    if rescaling.block_weights is not None:
        notes = (f"block weights: {blocks}", *notes)
    if rescaling.fold:
        _check_folded(adapter, updates, local)
    return Rescaled(replace(adapter, updates=updates), strengths, notes)


def strengths_of(targets: Sequence[str], where: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The strength of each target, given by the last glob that matches it; else 1.

    A glob is matched with the target's name, and with its module's name.

    Raises:
        MatchError: a glob matches nothing.
    """
    found = dict.fromkeys(targets, 1.0)
    for glob, strength in where:
        hits = [target for target in targets if matches(glob, target)]
        if not hits:
            raise no_match(glob, targets, option="where")
        found |= dict.fromkeys(hits, strength)
    return found


def _by_alpha(delta: Delta, rescaling: Rescaling) -> float:
    """The factor by which the new alpha strengthens an update; infinite if the old alpha is 0."""
    scaling = delta.scaling
    if rescaling.alpha is None or scaling is None or rescaling.alpha == scaling.alpha:
        return 1.0
    return rescaling.alpha / scaling.alpha if scaling.alpha else math.inf


def _blocks(adapter: Adapter, rescaling: Rescaling) -> BlockWeights:
    """The weights of the adapter's blocks, which are all 1 if none are given."""
    if rescaling.block_weights is None:
        return UNWEIGHTED
    return block_weights_of(rescaling.block_weights, adapter)


def _whole_tensors(adapter: Adapter, rescaling: Rescaling, blocks: BlockWeights) -> tuple[str, ...]:
    """A note that tensors which replace the base's have no strength, if a strength changes.

    Raises:
        UnsupportedError: there are such tensors, and `keep_replaced` does not allow them.
    """
    whole = [target for target, r in adapter.replaced.items() if r.is_trained] + [*adapter.rows]
    if rescaling.strength == 1 and rescaling.alpha is None:
        whole = [target for target in whole if blocks.of(target) != 1]
    if not whole:
        return ()
    verb = "takes" if len(whole) == 1 else "take"
    what = f"{listing(whole)} {verb} the place of the base's tensors, at any strength"
    if not rescaling.keep_replaced:
        raise UnsupportedError(
            f"{adapter.where}: {what}", hint=f"{flag('keep_replaced')} keeps them as they are"
        )
    return (what,)


def _rescaled(delta: Delta, strength: float, rescaling: Rescaling) -> Delta:
    if rescaling.alpha is None:
        delta = delta.scaled(strength)
    else:
        delta = with_alpha(delta, strength * rescaling.alpha)
    if rescaling.balance:
        delta = _balanced(delta, folds=rescaling.fold)
    return _restated(delta, rescaling)


def _restated(delta: Delta, rescaling: Rescaling) -> Delta:
    """The same change, stored with its scaling in the factors or for another rule, as chosen."""
    scaling, lora = delta.scaling, delta.low_rank
    if scaling is None:
        return delta
    rank = scaling.rank if lora is None else lora.rank
    if rescaling.fold:
        return delta.with_scaling(scaling_of(1.0, rank, "rank"), scaling.value)
    if rescaling.rule is not None:
        return delta.with_scaling(scaling_of(scaling.value, rank, RULES[rescaling.rule]))
    return delta


def _balanced(delta: Delta, *, folds: bool) -> Delta:
    """The same change with factors of similar norms; `folds` counts the scaling as part of `up`."""
    lora = delta.low_rank
    if lora is None:
        if len(delta.sources) > 1:
            raise UnsupportedError(f"{delta.kind} has no `up` and `down` that could be balanced")
        return delta
    shift = _shift(lora, lora.scaling.value if folds else 1.0)
    if shift == 1:
        return delta
    up, down = multiplied(lora.up, shift), multiplied(lora.down, 1 / shift)
    return delta.with_low_rank(replace(lora, up=up, down=down))


def _check_folded(
    adapter: Adapter, updates: Mapping[str, Update], strengths: Mapping[str, float]
) -> None:
    """Refuse scalings that make a factor so small that its dtype rounds all of it to zero."""
    from loratools.io.blocks import stored_norm

    for target, update in adapter.updates.items():
        before, after = update.delta.low_rank, updates[target].delta.low_rank
        if before is None or after is None or before.up is after.up:
            continue
        if not (strengths[target] and before.scaling.value):
            continue
        if stored_norm(before.up) and not stored_norm(after.up):
            raise UnsupportedError(
                f"{adapter.where}: {shorten(target)}: folded, up is zero in {after.up.dtype}",
                tensor=target,
                hint=f"{flag('balance')} gives it the norm of down",
            )


def _shift(lora: LoRA, factor: float) -> float:
    """The power of two that balances an update: `up` is multiplied with it, `down` divided by it.

    The norms of `factor * up` and `down` then differ by at most a factor of 2.
    """
    from loratools.io.blocks import stored_norm

    # A power of two, because multiplying with it rounds nothing.
    up, down = abs(factor) * stored_norm(lora.up), stored_norm(lora.down)
    if not (up and down and math.isfinite(up / down)):
        return 1.0
    return 2.0 ** round(math.log2(down / up) / 2)
