"""Modules of language models that mlx-lm and transformers call by the same name.

mlx-lm has other names for experts, and for the blocks of models such as GPT-2.
"""

import re

_IN_BLOCK = re.compile(r"(model\.layers|language_model\.model\.layers|backbone\.layers)\.\d+\.")
_OUTSIDE = re.compile(r"((language_model\.)?(model\.embed_tokens|lm_head)|backbone\.embeddings)")
_EXPERT = re.compile(r"\.(experts|switch_\w+)\.")


def is_called_alike(path: str) -> bool:
    """Whether the name of a module is known to be the same in both.

    >>> is_called_alike("model.layers.0.mlp.up_proj"), is_called_alike("transformer.h.0.mlp.c_fc")
    (True, False)
    """
    if _IN_BLOCK.match(path):
        return _EXPERT.search(path) is None
    return _OUTSIDE.fullmatch(path) is not None
