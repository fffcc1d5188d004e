"""Input embeddings and output heads, which many models store once and use twice."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "tokens_embed.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    "shared.weight",
    "embeddings.weight",
)
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight", "output_layer.weight")
#: Model types whose config ties the two unless it says otherwise.
_TIED_BY_DEFAULT = frozenset(
    {
        "albert", "bart", "bert", "blenderbot", "blenderbot-small", "bloom", "cohere", "cohere2",
        "cohere2_moe", "cohere_compass_text", "distilbert", "electra", "ernie4_5", "ernie4_5_moe",
        "falcon", "falcon_mamba", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n",
        "gemma3n_text", "gemma4", "gemma4_assistant", "gemma4_text", "gemma4_unified_assistant",
        "gemma4_unified_text", "gpt2", "gpt_bigcode", "gpt_neo", "granite_swa", "jetmoe", "lfm2",
        "lfm2_moe", "lfm3", "longt5", "mamba", "marian", "mbart", "minicpm3", "mpt", "mt5", "mvp",
        "openai-gpt", "opt", "pegasus", "phi3small", "plbart", "recurrent_gemma", "roberta",
        "smollm3", "starcoder2", "switch_transformers", "t5", "umt5", "vaultgemma", "xglm", "youtu",
        "zamba", "zamba2", "zaya",
    }
)  # fmt: skip


@final
@dataclass(frozen=True)
class TiedHead:
    """A head that is the embedding: `stored` says whether the base also has a copy of it."""

    embedding: str
    head: str
    stored: bool


def find_tied_head(names: Iterable[str], config: Mapping[str, Any] | None) -> TiedHead | None:
    """The embedding and head of a base that are one tensor; None where they are not, or unknown."""
    names = tuple(names)
    embedding = _only(name for name in names if _ends(name, _EMBEDDINGS))
    if embedding is None or not _is_tied(config):
        return None
    heads = [name for name in names if _ends(name, _HEADS)]
    if heads:
        return TiedHead(embedding, heads[0], stored=True)
    return TiedHead(embedding, _head_name(embedding), stored=False)


def is_embedding(name: str) -> bool:
    """Whether a parameter of this name has a row for every token: an embedding or a head."""
    return _ends(name, _EMBEDDINGS) or _ends(name, _HEADS)


def _is_tied(config: Mapping[str, Any] | None) -> bool:
    if config is None:
        return False
    text_config = config.get("text_config")
    for fields in (config, text_config if isinstance(text_config, dict) else {}):
        if isinstance(fields.get("tie_word_embeddings"), bool):
            return bool(fields["tie_word_embeddings"])
    return config.get("model_type") in _TIED_BY_DEFAULT


def _head_name(embedding: str) -> str:
    """GPT-NeoX calls it `embed_out`; nested language models keep it inside."""
    if embedding.endswith("embed_in.weight"):
        return "embed_out.weight"
    inner = "language_model."
    if embedding.startswith(f"{inner}model."):
        return f"{inner}lm_head.weight"
    return "lm_head.weight"


def _ends(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a name ends so and is in no layer: `layers.0.attention.output.weight` is no head."""
    if any(part.isdigit() for part in name.split(".")):
        return False
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def _only(found: Iterable[str]) -> str | None:
    names = tuple(found)
    return names[0] if len(names) == 1 else None
