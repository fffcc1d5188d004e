"""Diagonals as PEFT stores them."""

from tests.formats.bundles import PREFIX, decoded, lora

PAIR = lora("layer.q")


def test_diagonal_makes_a_kasa() -> None:
    assert decoded({**PAIR, f"{PREFIX}layer.q.lora_diag": (2,)}).kinds == ("KaSA",)
