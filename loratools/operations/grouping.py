"""Targets that differ only in the numbers in their names are shown as one row."""

import re


def pattern_of(name: str) -> str:
    """A name with every number that is a part of its own replaced: `model.layers.*.mlp`."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
