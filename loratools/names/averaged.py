"""Averaged weights (EMA): a second copy of the model, in some checkpoints of Stable Diffusion.

Their names are the model's without dots, after `model_ema.`: programs that make images read the
other copy, and trainers may go on from this one.
"""

from collections.abc import Iterable

from loratools.errors import counted

_PREFIX = "model_ema."


def is_averaged(name: str) -> bool:
    """Whether a tensor belongs to the averaged weights."""
    return name.startswith(_PREFIX)


def averaged_note(names: Iterable[str], what: str) -> tuple[str, ...]:
    """A note that says what becomes of the averaged weights among these names, if there are any."""
    count = sum(map(is_averaged, names))
    return (f"{_PREFIX}*: {counted(count, 'tensor')} of averaged weights {what}",) if count else ()
