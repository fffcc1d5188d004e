"""Finds embeddings, output heads, and whether they are tied: stored once and used as both."""

import re
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
#: Modules that look rows up, besides the embeddings of tokens.
_LOOKUPS = frozenset(
    {
        "embed_positions", "embed_tokens_per_layer", "pos_embed", "position_embedding",
        "position_embeddings", "positions_embed", "relative_attention_bias", "token_embedding",
        "token_type_embeddings", "word_embedding", "wpe",
    }
)  # fmt: skip
#: Fields of a config; only an embedding has as many rows as they say.
_ROW_COUNTS = ("vocab_size", "max_position_embeddings", "n_positions", "type_vocab_size")
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight", "output_layer.weight")
_ENDS = _EMBEDDINGS + _HEADS
#: Model types whose config ties embedding and head unless it says otherwise.
_TIED_BY_DEFAULT = frozenset(
    {
        "bart", "blenderbot", "blenderbot-small", "bloom", "cohere", "cohere2", "cohere2_moe",
        "cohere_compass_text", "ernie4_5", "ernie4_5_moe", "falcon", "falcon_mamba", "gemma",
        "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_assistant",
        "gemma4_text", "gemma4_unified_assistant", "gemma4_unified_text", "gpt2", "gpt_bigcode",
        "gpt_neo", "granite_swa", "jetmoe", "lfm2", "lfm2_moe", "lfm3", "longt5", "mamba", "marian",
        "mbart", "minicpm3", "mpt", "mt5", "mvp", "openai-gpt", "opt", "pegasus", "phi3small",
        "plbart", "recurrent_gemma", "smollm3", "starcoder2", "switch_transformers",
        "t5", "umt5", "vaultgemma", "xglm", "youtu", "zamba", "zamba2", "zaya",
    }
)  # fmt: skip
#: Model types that tie by default as well, but whose head has another name than those above, or
#: that also tie a bias or another embedding.
_TIED_OTHERWISE = frozenset(
    {
        "albert", "bert", "bert-generation", "big_bird", "biogpt", "camembert", "convbert",
        "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm",
        "flaubert", "fnet", "gte", "ibert", "jina_embeddings_v3", "layoutlm", "longformer", "luke",
        "megatron-bert", "mobilebert", "modernbert", "modernbert-decoder", "mpnet", "mra", "neomme",
        "nomic_bert", "nystromformer", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
        "squeezebert", "tapas", "trocr", "ultrabert", "whisper", "xlm", "xlm-roberta",
        "xlm-roberta-xl", "xlnet", "xmod", "yoso",
    }
)  # fmt: skip
_CLASSIFIER = re.compile("For(Sequence|Token)Classification|ForQuestionAnswering")
_HEADED = re.compile("LMHead|CausalLM|MaskedLM|PreTraining|ConditionalGeneration|DoubleHeads")


@final
@dataclass(frozen=True)
class TiedHead:
    """A head that shares its tensor with the embedding.

    Attributes:
        embedding: the name of the embedding's tensor.
        head: the name that the head's tensor has, or would have.
        stored: whether the base nevertheless stores a tensor for the head.
        separable: whether the model stays the same if both are stored and `tie_word_embeddings` is
            false. Encoders also tie a bias, and encoder-decoders three embeddings.
    """

    embedding: str
    head: str
    stored: bool
    separable: bool = True


def find_tied_head(names: Iterable[str], config: Mapping[str, Any] | None) -> TiedHead | None:
    """Find the embedding and head that are one tensor; None if they are not, or if unknown."""
    names = tuple(name for name in names if name.endswith(_ENDS))
    embedding = _only(name for name in names if _ends(name, _EMBEDDINGS))
    if embedding is None or not _is_tied(config):
        return None
    heads = [name for name in names if _ends(name, _HEADS)]
    head = heads[0] if heads else _head_name(embedding)
    return TiedHead(embedding, head, stored=bool(heads), separable=_is_separable(config or {}))


def find_used_head(names: Iterable[str], config: Mapping[str, Any] | None) -> TiedHead | None:
    """Find the embedding and head that are one tensor, if the model's class has such a head.

    None if the base stores no head and its class, such as a classifier, has none: its embedding is
    tied to nothing.
    """
    tied = find_tied_head(names, config)
    if tied is None or tied.stored:
        return tied
    is_without = is_classifier(config) or not (tied.separable or has_head(config))
    return None if is_without else tied


def has_head(config: Mapping[str, Any] | None) -> bool:
    """Whether a model's class has an output head for tokens; True if its class is unknown."""
    architectures = (config or {}).get("architectures")
    if not isinstance(architectures, list) or not architectures:
        return True
    return _HEADED.search(str(architectures[0])) is not None


def is_classifier(config: Mapping[str, Any] | None) -> bool:
    """Whether the class of a model is that of a classifier or for question answering."""
    architectures = (config or {}).get("architectures")
    return isinstance(architectures, list) and any(
        _CLASSIFIER.search(str(name)) for name in architectures
    )


def is_embedding(name: str) -> bool:
    """Whether a parameter's name is that of an embedding or a head, which have a row per token."""
    return _ends(name, _EMBEDDINGS) or _ends(name, _HEADS)


def is_lookup(name: str, rows: int, config: Mapping[str, Any] | None) -> bool:
    """Whether a weight is that of an embedding, whose rows are looked up instead of multiplied.

    The usual names of embeddings decide. Any other name with `embed` in it is one if the config has
    its number of rows, such as `vocab_size`.
    """
    module = name.removesuffix(".weight").rpartition(".")[2]
    if _ends(name, _EMBEDDINGS) or module in _LOOKUPS:
        return True
    counts = [(config or {}).get(count) for count in _ROW_COUNTS]
    return "embed" in module and not _ends(name, _HEADS) and rows in counts


def _is_tied(config: Mapping[str, Any] | None) -> bool:
    if config is None:
        return False
    text_config = config.get("text_config")
    for fields in (config, text_config if isinstance(text_config, dict) else {}):
        if isinstance(fields.get("tie_word_embeddings"), bool):
            return bool(fields["tie_word_embeddings"])
    return _model_type(config) in _TIED_BY_DEFAULT | _TIED_OTHERWISE


def _is_separable(config: Mapping[str, Any]) -> bool:
    is_otherwise = _model_type(config) in _TIED_OTHERWISE
    return not (is_otherwise or config.get("is_encoder_decoder"))


def _model_type(config: Mapping[str, Any]) -> str | None:
    """The model's type, by which names are looked up; None if it is not a text."""
    found = config.get("model_type")
    return found if isinstance(found, str) else None


def _head_name(embedding: str) -> str:
    """The name of the head's tensor, by the embedding's name.

    GPT-NeoX calls the head `embed_out`; nested language models have it inside `language_model.`.
    """
    if embedding.endswith("embed_in.weight"):
        return "embed_out.weight"
    inner = "language_model."
    if embedding.startswith(f"{inner}model."):
        return f"{inner}lm_head.weight"
    return "lm_head.weight"


def _ends(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a name has one of these suffixes and is outside of the layers.

    `layers.0.attention.output.weight` is no head.
    """
    if not name.endswith(endings) or any(part.isdigit() for part in name.split(".")):
        return False
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def _only(found: Iterable[str]) -> str | None:
    names = tuple(found)
    return names[0] if len(names) == 1 else None
