"""Whether a square weight is stored as (in, out): Hugging Face's `Conv1D`, of the GPT-2 kind.

For any other weight the shape tells. `fan_in_fan_out` in a config cannot be trusted: adapters
of GPT-2 exist that deny it and adapters of BLOOM that claim it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

_MODEL_TYPES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"})


def square_is_transposed(
    claimed: bool,
    non_square: Iterable[bool],
    config: Mapping[str, Any] | None,
) -> bool:
    """Whether the square weights of an adapter's targets are transposed.

    `non_square` says it of the same adapter's other targets, by their shapes; then the base's
    model type decides; where there is neither, what the adapter's config claims.
    """
    known = set(non_square)
    if len(known) == 1:
        return known.pop()
    if config is not None and isinstance(config.get("model_type"), str):
        return config["model_type"] in _MODEL_TYPES
    return claimed
