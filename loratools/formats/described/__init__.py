"""A dialect that the user describes: LoRA in home-made layers, by patterns for their keys."""

from loratools.formats import ALPHA, SCALE, Dialect, Option


def _check(text: str) -> object:
    from loratools.formats.described.description import parse

    return parse(text)


KEYS = Option(
    "keys",
    (),
    "The names of tensors in layers of your own, part by part: up={target}.B, down={target}.A, and "
    "alpha=, mid=, magnitude= or base= where there are any. Or a YAML file that says so.",
    text="PART=PATTERN",
    check=_check,
    decides=True,
)

DIALECT = Dialect(
    name="described", options=(KEYS, SCALE, ALPHA), reads=("LoRA", "DoRA", "Tucker LoCon")
)
