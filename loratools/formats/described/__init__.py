"""A dialect that the user describes: LoRA in home-made layers, by patterns for their keys."""

from loratools.formats import ALPHA, SCALE, Dialect, Option


def _check(text: str) -> object:
    from loratools.formats.described.description import parse

    return parse(text)


KEYS = Option(
    "keys",
    (),
    "How home-made keys are spelled: up={target}.B, down={target}.A, alpha=, mid=, magnitude=, "
    "base=; or a YAML file that says so. Several times, one for each part.",
    text="PART=PATTERN",
    check=_check,
    decides=True,
)

DIALECT = Dialect(
    name="described", options=(KEYS, SCALE, ALPHA), reads=("LoRA", "DoRA", "Tucker LoCon")
)
