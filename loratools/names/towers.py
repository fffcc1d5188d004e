"""Which encoder of a model a name is in: the one of text or the one of images.

CLIP, SigLIP and models that see have both, called towers, with modules of the same names and often
of the same sizes. Each may also be a model of its own, whose names do not say which of them it is:
its embedding does.
"""

import re
from collections.abc import Iterable
from typing import Literal

from loratools.names.components import labelled
from loratools.names.flattened import flattened_path

Tower = Literal["text", "image"]

_WORDS: dict[str, Tower] = {
    **dict.fromkeys(("text_model", "language_model"), "text"),
    **dict.fromkeys(("text_encoder", "text_encoder_2", "text_encoder_3"), "text"),
    **dict.fromkeys(("vision_model", "vision_tower", "vision_encoder", "visual"), "image"),
    **dict.fromkeys(("image_encoder", "image_tower", "video_tower"), "image"),
}
#: What only one of them has: what it reads its input with.
_EMBEDDINGS: dict[str, Tower] = {
    **dict.fromkeys(("token_embedding", "embed_tokens", "word_embeddings", "shared"), "text"),
    **dict.fromkeys(("patch_embedding", "patch_embeddings", "patch_embed"), "image"),
    **dict.fromkeys(("class_embedding", "cls_token"), "image"),
}
_DOTTED = re.compile(rf"(?:^|\.)({'|'.join(_WORDS)})(?=\.)")
_FLATTENED = re.compile(rf"(?:^|_)({'|'.join(_WORDS)})(?=_)")
#: Modules that encoders of text and of images have alike.
_ALIKE = "encoder.layers."


def tower_of(name: str) -> Tower | None:
    """The tower that a name is in: by the innermost that it names, or by a trainer's prefix.

    >>> tower_of("lora_te_encoder_layers_0_mlp_fc1.weight"), tower_of("encoder.layers.0.mlp.fc1")
    ('text', None)
    """
    path = flattened_path(name)
    words = _DOTTED.findall(name) if path is None else _FLATTENED.findall(path)
    if words:
        return _WORDS[words[-1]]
    return "text" if labelled(name)[1] in ("1", "2", "3") else None


def shown_by(names: Iterable[str]) -> Tower | None:
    """What a model is whose tensors have these names; None if this is not shown, or it is both."""
    found = {_EMBEDDINGS.get(word) for name in names for word in name.split(".")} - {None}
    return found.pop() if len(found) == 1 else None


def may_be_in(tower: Tower, name: str, shown: Tower | None) -> bool:
    """Whether a tensor may be in a tower, given its name and what its model is shown to be.

    Without a sign of either, those that both have alike are in none.
    """
    own = tower_of(name) or shown
    return own == tower or (own is None and _ALIKE not in name)
