"""Tells whether a square weight is stored as (in, out), as Hugging Face's `Conv1D` of GPT-2 does.

Of a weight that is not square, the shape tells. `fan_in_fan_out` in a config cannot be trusted:
there are adapters of GPT-2 in which it is false, and adapters of BLOOM in which it is true.
"""

from collections.abc import Iterable, Mapping
from typing import Any

_MODEL_TYPES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"})
_MODULES = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})


def square_is_transposed(
    claimed: bool,
    non_square: Iterable[bool],
    config: Mapping[str, Any] | None,
) -> bool:
    """Whether the square weights of an adapter's targets are transposed.

    If the same adapter has targets that are not square, these decide: `non_square` says which of
    them are transposed, as their shapes show. Else the base's model type decides, and without one
    the adapter's config, which is `claimed`.
    """
    known = set(non_square)
    if len(known) == 1:
        return known.pop()
    if config is not None and isinstance(config.get("model_type"), str):
        return config["model_type"] in _MODEL_TYPES
    return claimed


def conv1d_weights(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None
) -> frozenset[str]:
    """The weights of a model that are stored as (in, out), because their module is a `Conv1D`.

    Without a config, a model has `Conv1D` modules if a `c_attn` is three times as wide as high.
    """
    names = [name for name in shapes if _is_conv1d(name)]
    if config is not None and isinstance(config.get("model_type"), str):
        return frozenset(names if config["model_type"] in _MODEL_TYPES else ())
    shows = any(
        name.endswith("c_attn.weight") and shapes[name][1:] == (3 * shapes[name][0],)
        for name in names
    )
    return frozenset(names if shows else ())


def _is_conv1d(name: str) -> bool:
    module, _, parameter = name.rpartition(".")
    return parameter == "weight" and module.rpartition(".")[2] in _MODULES
