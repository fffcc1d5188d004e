"""Make updates stronger or weaker, or store the same updates with another scaling."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from loratools.adapter import Adapter, Update
from loratools.deltas import Delta, with_alpha
from loratools.deltas.lora import LoRA, Rule
from loratools.errors import OptionError, UnsupportedError, check_finite, listing, shorten
from loratools.io.computed import multiplied
from loratools.names.globs import matches, no_match
from loratools.reshaping.factors import scaling_of

#: The rules as they are called on the command line.
RULES: Mapping[str, Rule] = {"alpha-over-rank": "rank", "rslora": "sqrt_rank"}


@final
@dataclass(frozen=True)
class Rescaling:
    """What is to be done; the strengths and `alpha` change updates, the rest does not.

    Attributes:
        strength: every update times this.
        where: globs of targets and further strengths; of those that match a target the last counts.
        alpha: the alpha of every update.
        fold: put the scaling into the factors, so that alpha is the rank.
        rule: which scaling rule alpha is written for.
        balance: bring the norms of the factors of each update within a factor of 2.
        keep_replaced: keep whole tensors as they are though the strength changes.
    """

    strength: float = 1.0
    where: Sequence[tuple[str, float]] = ()
    alpha: float | None = None
    fold: bool = False
    rule: Literal["alpha-over-rank", "rslora"] | None = None
    balance: bool = False
    keep_replaced: bool = False

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        check_finite("strength", self.strength, *(strength for _, strength in self.where))
        check_finite("alpha", self.alpha or 0.0)
        if self.fold and (self.rule == "rslora" or self.alpha is not None):
            raise OptionError("folding sets alpha to the rank: no other alpha or rule fits")


@final
@dataclass(frozen=True)
class Rescaled:
    """The rescaled adapter, by how much each update was multiplied, and what was not."""

    adapter: Adapter
    strengths: Mapping[str, float]
    notes: tuple[str, ...]


def rescaled(adapter: Adapter, rescaling: Rescaling) -> Rescaled:
    """The adapter with other strengths, or with the same stored in another way.

    Strengths go into alpha, where they are exact. Factors change only with `fold`, `balance` and
    a strength of zero, because some readers take an alpha of zero for one that is not set.

    Raises:
        MatchError: a glob matches no target.
        UnsupportedError: something whose strength would change has none, folding leaves nothing of
            a factor, or the adapter cannot be merged exactly.
    """
    adapter.check_usable()
    local = strengths_of(tuple(adapter.updates), rescaling.where)
    local = {target: rescaling.strength * strength for target, strength in local.items()}
    strengths = {
        target: local[target] * _by_alpha(update.delta, rescaling)
        for target, update in adapter.updates.items()
    }
    updates = {}
    for target, update in adapter.updates.items():
        try:
            delta = _rescaled(update.delta, local[target], rescaling)
        except UnsupportedError as error:
            raise UnsupportedError(f"{adapter.where}: {shorten(target)}: {error}") from error
        updates[target] = replace(update, delta=delta)
    notes = _whole_tensors(adapter, rescaling)
    if rescaling.fold:
        _check_folded(adapter, updates, local)
    return Rescaled(replace(adapter, updates=updates), strengths, notes)


def strengths_of(targets: Sequence[str], where: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The strength of each target: that of the last glob that matches it, else 1.

    A glob is matched with the target's name, and with that of its module.

    Raises:
        MatchError: a glob matches nothing.
    """
    found = dict.fromkeys(targets, 1.0)
    for glob, strength in where:
        hits = [target for target in targets if matches(glob, target)]
        if not hits:
            raise no_match(glob, targets)
        found |= dict.fromkeys(hits, strength)
    return found


def _by_alpha(delta: Delta, rescaling: Rescaling) -> float:
    """How many times as strong the new alpha makes an update; infinite where the old one is 0."""
    scaling = delta.scaling
    if rescaling.alpha is None or scaling is None or rescaling.alpha == scaling.alpha:
        return 1.0
    return rescaling.alpha / scaling.alpha if scaling.alpha else math.inf


def _whole_tensors(adapter: Adapter, rescaling: Rescaling) -> tuple[str, ...]:
    """What is to be said of tensors that take the place of the base's, and so have no strength."""
    whole = [target for target, r in adapter.replaced.items() if r.is_trained] + [*adapter.rows]
    if not whole or (rescaling.strength == 1 and rescaling.alpha is None):
        return ()
    verb = "takes" if len(whole) == 1 else "take"
    what = f"{listing(whole)} {verb} the place of the base's tensors, at any strength"
    if not rescaling.keep_replaced:
        raise UnsupportedError(f"{adapter.where}: {what}; --keep-replaced keeps them as they are")
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
    """The same change, its scaling in the factors or by the rule that was asked for."""
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
    """The same change with factors of like norms, once the scaling is in them if it `folds`."""
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
    """Refuse factors that a scaling makes so small that nothing of them is left in their dtype."""
    from loratools.io.blocks import frobenius

    for target, update in adapter.updates.items():
        before, after = update.delta.low_rank, updates[target].delta.low_rank
        if before is None or after is None or before.up is after.up:
            continue
        if not (strengths[target] and before.scaling.value):
            continue
        if frobenius(before.up) and not frobenius(after.up):
            raise UnsupportedError(
                f"{adapter.where}: {shorten(target)}: folded, up is zero in {after.up.dtype}; "
                f"--balance gives it the norm of down"
            )


def _shift(lora: LoRA, factor: float) -> float:
    """What brings the norms of `factor` times up, and of down, within 2: a power of two."""
    from loratools.io.blocks import frobenius

    up, down = abs(factor) * frobenius(lora.up), frobenius(lora.down)
    if not (up and down and math.isfinite(up / down)):
        return 1.0
    return 2.0 ** round(math.log2(down / up) / 2)
