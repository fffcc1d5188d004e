"""Targets that differ only in the numbers in their names are shown as one row."""

import re

from loratools.names.flattened import flattened_path


def pattern_of(name: str) -> str:
    """A name with every number that is a part of its own replaced: `model.layers.*.mlp`."""
    if flattened_path(name) is not None:
        return re.sub(r"(?<=_)\d+(?=[_.])", "*", name)
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
