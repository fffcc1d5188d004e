"""Magnitudes as PEFT stores them."""

import pytest

from tests.formats._peft.parts import parts
from tests.formats.bundles import PREFIX, decoded, lora

PAIR = lora("layer.q")


@pytest.mark.parametrize(
    "key", ["lora_magnitude_vector", "lora_magnitude_vector.default.weight"], ids=str
)
@pytest.mark.parametrize("shape", [(4,), (1, 4, 1, 1)], ids=str)
def test_magnitude_makes_a_dora(key: str, shape: tuple[int, ...]) -> None:
    adapter = decoded({**PAIR, f"{PREFIX}layer.q.{key}": shape})
    assert adapter.kinds == ("DoRA",)


def test_magnitudes_of_an_embedding_are_one_a_column() -> None:
    """A vocabulary of 7 and a width of 3: PEFT's norm runs over the tokens."""
    pair = parts(lora_embedding_A=(2, 7), lora_embedding_B=(3, 2))
    delta = decoded({**pair, **parts(lora_magnitude_vector=(3,))}).updates["layer.q.weight"].delta
    assert (delta.kind, delta.shape, delta.by_rows) == ("DoRA", (7, 3), False)
