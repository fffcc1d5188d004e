"""Diagonals as PEFT stores them."""

from dataclasses import replace

import pytest

from loratools.errors import UnsupportedError
from loratools.formats import encode
from tests.formats.bundles import PREFIX, decoded, lora

PAIR = lora("layer.q")


def test_diagonal_makes_a_kasa() -> None:
    assert decoded({**PAIR, f"{PREFIX}layer.q.lora_diag": (2,)}).kinds == ("KaSA",)


def test_diagonal_of_an_embedding_has_no_place() -> None:
    adapter = decoded({**PAIR, f"{PREFIX}layer.q.lora_diag": (2,)})
    (update,) = adapter.updates.values()
    updates = {"layer.q.weight": replace(update, is_embedding=True)}
    with pytest.raises(UnsupportedError, match="no place for a KaSA of an embedding"):
        encode(replace(adapter, updates=updates))
