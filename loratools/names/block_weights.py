"""Weights of blocks as people write them: a list of numbers, a preset, or blocks by name.

    1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0
    OUTD
    IN04=0.5,OUT00-OUT05=0
    OUTD,BASE=0,rest=0.2

A list or a preset has to give a weight to every block that the adapter changes. Programs disagree
on what a block that is not listed gets, 0 or 1, so `rest=` has to say it. Where blocks are only
named, the others keep a weight of 1.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, final

from loratools.adapter import Adapter
from loratools.checks import check_finite
from loratools.errors import MatchError, OptionError, counted, listing
from loratools.names.block_lists import LISTS, PRESETS, BlockList
from loratools.names.blocks import BASE, block_of, parsed_label, position, stack_of

_REST = "rest"
#: `<lora:style:1:lbw=OUTD>`, or the last part of it, as sd-webui-lora-block-weight reads it.
_IN_A_PROMPT = re.compile(r"(?:^|:)lbw=([^:>]*)", re.IGNORECASE)


@final
@dataclass(frozen=True)
class BlockWeights:
    """The weight of each block that an adapter changes; without any, all weights are 1."""

    by_block: Mapping[str, float]

    def of(self, name: str) -> float:
        """The weight of the block that a parameter is in."""
        return self.by_block.get(block_of(name), 1.0) if self.by_block else 1.0

    def __str__(self) -> str:
        """All weights in the order of blocks: `BASE 1, IN01 to IN08 0, M00 0.5`."""
        labels = sorted(self.by_block, key=position)
        runs = groupby(labels, key=lambda label: (self.by_block[label], position(label)[0]))
        return ", ".join(f"{_span(list(run))} {weight:g}" for (weight, _), run in runs)


#: The weights of an adapter that was given none.
UNWEIGHTED = BlockWeights({})


@final
class _Named(NamedTuple):
    """The weights of blocks that are named, and of all others; None if they are not mentioned."""

    by_block: dict[str, float]
    rest: float | None


def block_weights(text: str, targets: Iterable[str]) -> BlockWeights:
    """Read block weights for an adapter that changes these targets.

    >>> str(block_weights("OUT00-OUT02=0.5", ["unet.up_blocks.0.attentions.0.proj_in.weight"]))
    'OUT00 0.5'

    Raises:
        OptionError: the text is no list, no preset, and names no blocks.
        MatchError: it names a block in which the adapter changes nothing, is silent about one in
            which it does, or fits several lists.
    """
    blocks = Counter(block_of(target) for target in targets)
    head, named = _parts(text)
    own = _named(named, blocks)
    if not head:
        rest = 1.0 if own.rest is None else own.rest
        return BlockWeights({block: own.by_block.get(block, rest) for block in blocks})
    readings = _readings(head, blocks, own)
    found = {tuple((reading | own.by_block)[block] for block in blocks) for reading in readings}
    if not found:
        raise _silent(head, blocks, own)
    if len(found) > 1:
        first = min(blocks, key=position)
        advice = f"SD-{text} or SDXL-{text}" if _is_preset(head) else f"names, as in {first}=1"
        raise MatchError(
            f"block weights: {text!r} has several meanings for the blocks of the adapter, "
            f"{_spans(blocks)}",
            hint=f"write {advice}",
        )
    return BlockWeights(dict(zip(blocks, found.pop(), strict=True)))


def block_weights_of(text: str, adapter: Adapter) -> BlockWeights:
    """Read block weights for everything that an adapter changes.

    Raises:
        OptionError: the text is not clear.
        MatchError: it does not fit the adapter, which the message names.
    """
    targets = (*adapter.updates, *adapter.replaced, *adapter.rows)
    try:
        return block_weights(text, targets)
    except MatchError as error:
        raise error.within(adapter.where) from error


def _parts(text: str) -> tuple[list[str], list[str]]:
    """The list or the preset at the beginning, and what follows it about blocks by name."""
    if found := _IN_A_PROMPT.search(text):
        raise OptionError(
            f"block weights: {text!r} is written as in a prompt", hint=f"write {found[1]}"
        )
    items = [item.strip() for item in text.strip().removeprefix("[").removesuffix("]").split(",")]
    head = [item for item in items if "=" not in item]
    named = items[len(head) :]
    if not all(items) or any("=" not in item for item in named):
        raise OptionError(
            f"block weights {text!r} are not a list of numbers or a preset, followed by blocks "
            f"such as OUT03=0.5"
        )
    return head, named


def _named(items: Iterable[str], blocks: Collection[str]) -> _Named:
    """Read weights such as `IN04-IN08=0.5`; of several for one block, the last counts."""
    found: dict[str, float] = {}
    rest = None
    for item in items:
        label, _, number = item.rpartition("=")
        weight = _number(number)
        if label.strip().lower() == _REST:
            rest = weight
            continue
        chosen = _chosen(label, blocks)
        if not chosen and parsed_label(label) != BASE:
            raise MatchError(
                f"block weights: {item!r} means nothing that the adapter changes, which is in "
                f"{_spans(blocks)}"
            )
        found |= dict.fromkeys(chosen, weight)
    return _Named(found, rest)


def _chosen(text: str, blocks: Collection[str]) -> list[str]:
    """The blocks that a name or a range of names means: `OUT03`, `IN05-OUT05`."""
    first, _, last = (part.strip() for part in text.partition("-"))
    ends = parsed_label(first), parsed_label(last or first)
    if ends[0] is None or ends[1] is None:
        raise OptionError(
            f"block weights: {text!r} is no block",
            hint="blocks are BASE, IN04, M00, OUT07, B12, S03, "
            "ranges such as OUT03-OUT05, and rest",
        )
    begin, end = position(ends[0]), position(ends[1])
    return [block for block in blocks if begin <= position(block) <= end]


def _readings(head: list[str], blocks: Collection[str], own: _Named) -> list[dict[str, float]]:
    """What a list or a preset can mean: each time a weight for every block of the adapter."""
    whole, partial = [], []
    for alternative in _alternatives(head):
        if "=" in alternative[0]:
            named = _named(alternative, blocks)
            rest = named.rest if own.rest is None else own.rest
            assert rest is not None, alternative
            whole.append({block: named.by_block.get(block, rest) for block in blocks})
            continue
        for order in _of_length(len(alternative), blocks):
            listed = dict(zip(order.blocks, map(_number, alternative), strict=True))
            if not _unlisted(order, blocks, own):
                whole.append(listed)
            elif own.rest is not None:
                partial.append(dict.fromkeys(blocks, own.rest) | listed)
    return whole or partial


def _alternatives(head: list[str]) -> list[list[str]]:
    """The items of the list itself, or those of each list that a preset has."""
    if _is_preset(head):
        return [text.split(",") for text in PRESETS[head[0].upper()]]
    presets = [name for name in PRESETS if not name.startswith(("SD-", "SDXL-"))]
    for item in head:
        _refuse_words(item)
        _number(item, f", and no preset, which are {', '.join(presets)}")
    return [head]


def _refuse_words(item: str) -> None:
    """Refuse a preset or the name of a block in the place of a number."""
    if item.upper() in PRESETS:
        raise OptionError(
            f"block weights: {item!r} is a preset, and not one number of a list",
            hint="give those of each adapter on their own",
        )
    label, _, number = item.partition(":")
    if parsed_label(label) is not None:
        raise OptionError(
            f"block weights: {item!r} is a block", hint=f"write {label}={number or 0.5}"
        )


def _is_preset(head: list[str]) -> bool:
    return len(head) == 1 and head[0].upper() in PRESETS


def _number(text: str, what_else: str = "") -> float:
    try:
        weight = float(text)
    except ValueError:
        raise OptionError(f"block weights: {text!r} is no number{what_else}") from None
    check_finite("a block weight", weight)
    return weight


def _of_length(length: int, blocks: Iterable[str]) -> list[BlockList]:
    """The lists of this length for models with such blocks."""
    stacks = {stack_of(block) for block in blocks} - {BASE}
    orders = (order for order in LISTS if len(order.blocks) == length)
    return [order for order in orders if stacks <= set(map(stack_of, order.blocks))]


def _unlisted(order: BlockList, blocks: Iterable[str], own: _Named) -> list[str]:
    """The blocks of the adapter that get no weight from a list, nor by name."""
    return [block for block in blocks if block not in order.blocks and block not in own.by_block]


def _silent(head: list[str], blocks: Counter[str], own: _Named) -> MatchError:
    """The error for a list or a preset that gives no weight to some block of the adapter."""
    given = (
        f"the preset {head[0]}"
        if _is_preset(head)
        else f"the list of {counted(len(head), 'value')}"
    )
    known = [
        f"{len(order.blocks)} ({order.models}: {order.order})"
        for order in LISTS
        if not _unlisted(order, blocks, own)
    ]
    hint = f"known lists of values for them: {listing(known, 3)}" if known else None
    lengths = dict.fromkeys(map(len, _alternatives(head)))
    near = [order for length in lengths for order in _of_length(length, blocks)]
    if not near:
        return MatchError(
            f"block weights: {given} is not for the blocks of the adapter, {_spans(blocks)}",
            hint=hint,
        )
    order = min(near, key=lambda order: len(_unlisted(order, blocks, own)))
    missed = _unlisted(order, blocks, own)
    targets = sum(blocks[block] for block in missed)
    example = f"{missed[0]}=0" if len(missed) == 1 else "rest=0"
    return MatchError(
        f"block weights: {given} is for {order.order}, and {targets} of the adapter's targets "
        f"{'is' if targets == 1 else 'are'} in {_spans(missed)}",
        hint=f"give a weight for the rest, as in {example}" + (f", or use {hint}" if hint else ""),
    )


def _spans(blocks: Iterable[str]) -> str:
    """Blocks in their order, with runs of neighbours as one: `BASE, IN04 to IN05, M00`."""
    labels = sorted(blocks, key=position)
    # Neighbours have the same stack, and the same difference of number and place in the list.
    places = [position(label) for label in labels]
    runs = groupby(range(len(labels)), key=lambda at: (places[at][0], places[at][1] - at))
    return ", ".join(_span([labels[at] for at in run]) for _, run in runs)


def _span(run: list[str]) -> str:
    return run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}"
