"""The options for weights, of adapters and of blocks; and adapters written as `ADAPTER:0.7`."""

import os
import re
from collections.abc import Collection, Sequence
from contextlib import suppress

import click

from loratools.cli.command import Command
from loratools.cli.values import WeightList
from loratools.errors import counted

#: The name of an adapter, with what may have been meant as its weight.
_MARKED = re.compile(r"(.+?)\s*[:@*=×]\s*[^/\\]*$")
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)%?,?")


def weight_option(command: Command) -> Command:
    """`-w`: the weights of adapters, in order, in one list or several."""
    return click.option(
        "-w",
        "--weight",
        "weights",
        type=WeightList(),
        multiple=True,
        metavar="W[,W...]",
        callback=_joined,
        help="The weight of each adapter, in order: -w 0.7,0.3 or -w 0.7 -w 0.3. Or write it after "
        "the adapter, as in style.safetensors:0.7. 1 is the strength as trained, 0.5 half of it, "
        "and -1 its opposite.  [default: 1]",
    )(command)


def _joined(
    context: click.Context, parameter: click.Parameter, lists: Sequence[tuple[float, ...]]
) -> tuple[float, ...]:
    return tuple(weight for each in lists for weight in each)


def weighted(
    adapters: Sequence[str], weights: tuple[float, ...]
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The names of adapters, and their weights: those of `-w`, or of names as `ADAPTER:0.7`.

    There are no weights if none is given, and where only some names have one, others have 1.

    Raises:
        UsageError: weights are given in both ways, or one without a name; what follows a name is
            no weight; or a number or a part of a prompt stands for an adapter.
    """
    pairs = [_split(adapter) for adapter in adapters]
    names, own = tuple(name for name, _ in pairs), [weight for _, weight in pairs]
    if all(weight is None for weight in own):
        return names, weights
    if weights:
        first = next(a for a, weight in zip(adapters, own, strict=True) if weight is not None)
        raise click.UsageError(
            f"{first!r} has its weight after the colon, and -w gives weights too; "
            "use one of the two."
        )
    return names, tuple(1.0 if weight is None else weight for weight in own)


def _split(adapter: str) -> tuple[str, float | None]:
    """The name and the weight in `NAME:WEIGHT`; a path that exists is a name, whatever is in it."""
    from loratools.io.missing import named_in_prompt

    drive, rest = os.path.splitdrive(adapter)  # `C:` on Windows, and nothing elsewhere
    name, colon, number = rest.rpartition(":")
    if os.path.lexists(adapter):
        return adapter, None
    if _NUMBER.fullmatch(adapter):
        raise click.UsageError(
            f"{adapter!r} is a number in the place of an adapter; several weights are one list "
            "without spaces (-w 0.7,0.3), or stand after the adapters (style.safetensors:0.7)."
        )
    if (named := named_in_prompt(adapter)) is not None:
        raise click.UsageError(
            f"{adapter!r} is written as in a prompt; name the file, as in {':'.join(named)}"
        )
    if colon:
        with suppress(ValueError):
            weight = float(number)
            if not name:
                raise click.UsageError(
                    f"{adapter!r} has a weight and no adapter; give ADAPTER:{number}."
                )
            return drive + name, weight
    if (found := _MARKED.match(rest)) and os.path.lexists(drive + found[1]):
        raise click.UsageError(
            f"{adapter!r}: the weight of an adapter is a number after a colon; "
            f"write for example {drive + found[1]}:0.7"
        )
    return adapter, None


def block_weights_option(command: Command, *, of_each: bool = False) -> Command:
    """`--block-weights`: the weights of blocks as a text; with `of_each`, one for each adapter."""
    each = "For each adapter, in order: w" if of_each else "W"
    return click.option(
        "--block-weights",
        metavar="WEIGHTS",
        multiple=of_each,
        help=f"{each}eights of the blocks of an image model: a list such as 1,0,0.5,…, a preset "
        "such as OUTD, or blocks by name, as in IN04=0.5,OUT00-OUT05=0.",
    )(command)


def check_counts(
    adapters: int, weights: Collection[float], block_weights: Collection[str] = ()
) -> None:
    """Refuse weights and block weights that are given, and not for each of the adapters.

    Raises:
        UsageError: there are more or fewer.
    """
    for given, what, option in (
        (weights, "weight", "-w"),
        (block_weights, "block weight", "--block-weights"),
    ):
        if given and len(given) != adapters:
            raise click.UsageError(
                f"{counted(len(given), what)} ({option}) for {counted(adapters, 'adapter')}; "
                f"give one for each, or none."
            )
