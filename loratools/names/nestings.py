"""Prefixes of the names of a model's modules that differ between programs and their versions."""

from collections.abc import Iterator
from itertools import permutations

#: Prefixes of modules that trainers, heads and exporters put around a model, or leave out.
_CONTAINERS = (
    "model.",
    "base_model.",
    "transformer.",
    "language_model.",
    "text_model.",
    "bert.",
    "roberta.",
    "distilbert.",
    "deberta.",
    "electra.",
    "gpt_neox.",
    "vit.",
    "module.",
    "_orig_mod.",
)

#: Prefixes that transformers 4.52 changed when it restructured vision-language models: the old and
#: the new one.
RENESTED = (
    ("model.", "model.language_model."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("visual.", "model.visual."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)

#: Prefixes of one part of a model, by transformers' version and by the class that it is loaded as:
#: those of a row mean the same.
_NESTINGS = (
    # The language model by itself, and inside of others before and after transformers 4.52.
    (
        "model.",
        "language_model.",
        "language_model.model.",
        "model.language_model.",
        "text_model.model.",
        "model.text_model.",
        "thinker.model.",
    ),
    ("model.", "backbone."),  # Nemotron-H and Mamba
    ("model.", "ultrabert."),
    ("lm_head.", "language_model.lm_head.", "text_model.lm_head.", "thinker.lm_head."),
    # transformers 5 has left out a module of CLIP and SigLIP.
    *(
        (f"{tower}.vision_model.", f"{tower}.", f"model.{tower}.vision_model.", f"model.{tower}.")
        for tower in ("vision_tower", "image_tower", "video_tower")
    ),
    ("visual.", "model.visual.", "thinker.visual."),
    ("audio_tower.", "model.audio_tower.", "thinker.audio_tower."),
    # The same module of CLIP in a text encoder, which diffusers has.
    ("text_encoder.", "text_model."),
    ("text_encoder_2.", "text_model."),
    ("text_encoder.", "text_encoder.text_model."),
    ("text_encoder_2.", "text_encoder_2.text_model."),
    # Classes for question answering use another prefix: LlamaForQuestionAnswering, for example.
    ("model.", "transformer."),
)


def prefix_changes(target: str) -> Iterator[tuple[str, str]]:
    """Yield known prefixes of a target, each with one that may replace it; both can be empty."""
    for same in _NESTINGS:
        for old, new in permutations(same, 2):
            if target.startswith(old):
                yield old, new
    for prefix in _CONTAINERS:
        yield "", prefix
        if target.startswith(prefix):
            yield prefix, ""


def described(old: str, new: str) -> str:
    """Describe a change of prefix in words."""
    if old and new:
        return f"{old} → {new}"
    return f"{old} removed" if old else f"{new} added"
