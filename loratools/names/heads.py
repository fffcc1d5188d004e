"""The heads of classifiers, by model type: the class that has a head, and its tensors' names.

A head is the set of layers that transformers puts on top of a base model for a task. A base without
a head has no such names, nor does its config say which class the model becomes when an adapter
brings a head along. So both are listed here.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

#: The suffix of the class's name, by task. The first three tasks are PEFT's.
SUFFIXES = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
    "IMAGE_CLS": "ForImageClassification",
    "AUDIO_CLS": "ForSequenceClassification",
}
#: The usual names of output layers, for models that are not in the table.
_OUTPUTS = (
    "score", "classifier", "qa_outputs", "classifier.out_proj", "classification_head.out_proj",
    "score.out_proj",
)  # fmt: skip
_STEM = re.compile(r"(.+?)(?:(?:With)?LMHeadModel|DoubleHeadsModel|EncoderModel|Model|For[A-Z]\w*)")

_DENSE = "classifier.dense classifier.out_proj"
_BART = "classification_head.dense classification_head.out_proj"
_MODERN = "head.dense- head.norm- classifier"
#: Groups of models whose heads are alike: the prefix of the base model's names (None: the model
#: type), the modules of each task's head, and «model type=class name without its suffix» for each
#: model. A module has a weight and a bias, or with «-» only a weight. With «*» it lies inside the
#: base model, but only in the class for this task. The last module of a head is its output layer. A
#: prefix before «: » is that of one task's class alone.
_PATTERNS: tuple[tuple[str | None, Mapping[str, str], str], ...] = (
    (
        None,
        {"SEQ_CLS": "pooler.dense* classifier", "TOKEN_CLS": "classifier",
         "QUESTION_ANS": "qa_outputs"},
        "bert=Bert ernie=Ernie luke=Luke rembert=RemBert roc_bert=RoCBert",
    ),
    (
        None,
        {"SEQ_CLS": "pooler* classifier", "TOKEN_CLS": "classifier", "QUESTION_ANS": "qa_outputs"},
        "albert=Albert",
    ),
    (
        "bert",
        {"SEQ_CLS": "pooler.dense* classifier", "TOKEN_CLS": "classifier",
         "QUESTION_ANS": "qa_outputs"},
        "megatron-bert=MegatronBert",
    ),
    (
        None,
        {"SEQ_CLS": _DENSE, "TOKEN_CLS": "classifier", "QUESTION_ANS": "qa_outputs"},
        "convbert=ConvBert data2vec-text=Data2VecText electra=Electra ibert=IBert lilt=Lilt "
        "longformer=Longformer mpnet=MPNet mra=Mra nystromformer=Nystromformer roberta=Roberta "
        "roberta-prelayernorm=RobertaPreLayerNorm roformer=RoFormer yoso=Yoso",
    ),
    (
        "roberta",
        {"SEQ_CLS": _DENSE, "TOKEN_CLS": "classifier", "QUESTION_ANS": "qa_outputs"},
        "camembert=Camembert xlm-roberta=XLMRoberta xlm-roberta-xl=XLMRobertaXL xmod=Xmod",
    ),
    (
        None,
        {"SEQ_CLS": "pre_classifier classifier", "TOKEN_CLS": "classifier",
         "QUESTION_ANS": "qa_outputs"},
        "distilbert=DistilBert",
    ),
    (
        "deberta",
        {"SEQ_CLS": "pooler.dense classifier", "TOKEN_CLS": "classifier",
         "QUESTION_ANS": "qa_outputs"},
        "deberta=Deberta deberta-v2=DebertaV2",
    ),
    (
        None,
        {"SEQ_CLS": "classifier", "TOKEN_CLS": "classifier", "QUESTION_ANS": "qa_outputs"},
        "canine=Canine fnet=FNet",
    ),
    (None, {"SEQ_CLS": _DENSE, "TOKEN_CLS": "classifier"}, "esm=Esm"),
    (
        "transformer",
        {"SEQ_CLS": "classifier", "TOKEN_CLS": "classifier", "QUESTION_ANS": "qa_outputs"},
        "squeezebert=SqueezeBert",
    ),
    (
        "model",
        {"SEQ_CLS": _MODERN, "TOKEN_CLS": _MODERN, "QUESTION_ANS": _MODERN},
        "modernbert=ModernBert",
    ),
    ("model", {"SEQ_CLS": _BART, "QUESTION_ANS": "qa_outputs"}, "bart=Bart mbart=MBart mvp=Mvp"),
    (
        "transformer",
        {"SEQ_CLS": _BART, "TOKEN_CLS": "classifier"},
        "mt5=MT5 t5=T5 umt5=UMT5",
    ),
    (
        "transformer",
        {"SEQ_CLS": "score-", "TOKEN_CLS": "classifier", "QUESTION_ANS": "qa_outputs"},
        "bloom=Bloom falcon=Falcon gpt2=GPT2 gpt_neo=GPTNeo mpt=Mpt",
    ),
    (
        "transformer",
        {"SEQ_CLS": "sequence_summary.summary logits_proj", "TOKEN_CLS": "classifier"},
        "xlnet=XLNet",
    ),
    (
        "transformer",
        {"SEQ_CLS": "score-", "TOKEN_CLS": "classifier"},
        "gpt-sw3=GPT2 gpt_bigcode=GPTBigCode",
    ),
    ("transformer", {"SEQ_CLS": "score-", "QUESTION_ANS": "qa_outputs"}, "gptj=GPTJ"),
    (
        None,
        {"SEQ_CLS": "score-", "TOKEN_CLS": "classifier", "QUESTION_ANS": "qa_outputs"},
        "gpt_neox=GPTNeoX",
    ),
    (None, {"SEQ_CLS": "score-", "TOKEN_CLS": "classifier"}, "biogpt=BioGpt"),
    ("model", {"SEQ_CLS": "score-", "QUESTION_ANS": "qa_outputs"}, "opt=OPT"),
    (
        "model",
        {"SEQ_CLS": "score-", "TOKEN_CLS": "score", "QUESTION_ANS": "qa_outputs"},
        "minimax=MiniMax ministral3=Ministral3 mistral=Mistral mixtral=Mixtral qwen2_moe=Qwen2Moe",
    ),
    # In these, the class for question answering has another prefix than the other classes.
    (
        "model",
        {"SEQ_CLS": "score-", "TOKEN_CLS": "score", "QUESTION_ANS": "transformer: qa_outputs"},
        "arcee=Arcee diffllama=DiffLlama exaone4=Exaone4 llama=Llama nemotron=Nemotron qwen2=Qwen2 "
        "qwen3=Qwen3 qwen3_moe=Qwen3Moe qwen3_next=Qwen3Next seed_oss=SeedOss smollm3=SmolLM3",
    ),
    (
        "model",
        {"SEQ_CLS": "score-", "TOKEN_CLS": "score"},
        "deepseek_v3=DeepseekV3 gemma=Gemma gemma2=Gemma2 glm=Glm glm4=Glm4 gpt_oss=GptOss "
        "helium=Helium persimmon=Persimmon phi=Phi phi3=Phi3 qwen3_5=Qwen3_5 stablelm=StableLm "
        "starcoder2=Starcoder2",
    ),
    (
        "model",
        {"SEQ_CLS": "score-"},
        "deepseek_v2=DeepseekV2 gemma3=Gemma3 gemma3_text=Gemma3Text jamba=Jamba jetmoe=JetMoe "
        "olmo=Olmo olmo2=Olmo2 olmo3=Olmo3 phimoe=Phimoe zamba=Zamba zamba2=Zamba2",
    ),
    (
        "model",
        {"TOKEN_CLS": "score"},
        "apertus=Apertus openai_privacy_filter=OpenAIPrivacyFilter",
    ),
    (
        None,
        {"IMAGE_CLS": "classifier"},
        "beit=Beit convnext=ConvNext convnextv2=ConvNextV2 dinov2=Dinov2 "
        "dinov2_with_registers=Dinov2WithRegisters efficientnet=EfficientNet focalnet=FocalNet "
        "hiera=Hiera ijepa=IJepa mobilevit=MobileViT segformer=Segformer swin=Swin swinv2=Swinv2 "
        "vit=ViT",
    ),
    (
        None,
        {"AUDIO_CLS": "projector classifier"},
        "hubert=Hubert unispeech=UniSpeech wav2vec2=Wav2Vec2 wavlm=WavLM "
        "wav2vec2-conformer=Wav2Vec2Conformer wav2vec2-bert=Wav2Vec2Bert",
    ),
)  # fmt: skip


@final
@dataclass(frozen=True)
class Head:
    """The layers that a class for a task has on top of its base model.

    Attributes:
        architecture: the name of the class.
        prefix: the prefix that the base model's tensors have in this class; empty if unknown.
        parameters: the names of the head's tensors.
        output: the name of the weight with a row for every label.
        is_known: whether the class is in the table of transformers' classes, or only guessed.
    """

    task: str
    architecture: str
    prefix: str
    parameters: tuple[str, ...]
    output: str
    is_known: bool = True

    @property
    def reads_last_token(self) -> bool:
        """Whether the class classifies by the last token before the padding.

        It then needs the config to say which token pads.
        """
        return self.task == "SEQ_CLS" and self.output == "score.weight"


def known_heads(model_type: object) -> tuple[Head, ...]:
    """The heads that transformers has for a model type; none for a type not in the table."""
    return tuple(_heads(model_type)) if isinstance(model_type, str) else ()


def find_heads(
    stored: Collection[str], task: str | None, config: Mapping[str, Any]
) -> tuple[Head, ...]:
    """The heads that the stored tensors of an adapter may be, for a base with this config.

    There is one if the names decide; several if the names fit several tasks and `task` does not say
    which; none if no output layer is among the tensors, or if the class is unknown.
    """
    task = task if task in SUFFIXES else None
    fitting = [
        head
        for head in known_heads(config.get("model_type"))
        if head.output in stored and task in (None, head.task)
    ]
    if fitting:
        return _most_of(fitting, stored)
    output, stem = output_layer(stored), _stem(config)
    if output is None or stem is None:
        return ()
    tasks = (task,) if task else ("SEQ_CLS", "TOKEN_CLS")
    if output == "qa_outputs.weight":
        tasks = ("QUESTION_ANS",)
    return tuple(
        Head(each, stem + SUFFIXES[each], "", (output,), output, is_known=False) for each in tasks
    )


def output_layer(stored: Collection[str]) -> str | None:
    """The output layer's weight among some tensors, found by its usual names; None without one."""
    return next((f"{name}.weight" for name in _OUTPUTS if f"{name}.weight" in stored), None)


def _heads(model_type: str) -> Iterator[Head]:
    for shared_prefix, tasks, classes in _PATTERNS:
        stems = dict(entry.split("=") for entry in classes.split())
        if model_type not in stems:
            continue
        for task, modules in tasks.items():
            own_prefix, _, names = modules.rpartition(": ")
            prefix = (own_prefix or shared_prefix or model_type.replace("-", "_")) + "."
            parameters = tuple(_parameters(names.split(), prefix))
            output = names.split()[-1].rstrip("-") + ".weight"
            yield Head(task, stems[model_type] + SUFFIXES[task], prefix, parameters, output)


def _parameters(modules: Sequence[str], prefix: str) -> Iterator[str]:
    for module in modules:
        name = module.rstrip("-*")
        path = prefix + name if module.endswith("*") else name
        yield f"{path}.weight"
        if not module.endswith("-"):
            yield f"{path}.bias"


def _most_of(heads: Sequence[Head], stored: Collection[str]) -> tuple[Head, ...]:
    """The largest heads whose tensors, except poolers, are all stored; else all heads."""
    # Poolers do not count, because PEFT does not train them: an adapter never stores one.
    sizes = {head: [n in stored for n in head.parameters if "pooler" not in n] for head in heads}
    whole = [head for head in heads if all(sizes[head])]
    largest = max((len(sizes[head]) for head in whole), default=0)
    return tuple(head for head in whole if len(sizes[head]) == largest) or tuple(heads)


def _stem(config: Mapping[str, Any]) -> str | None:
    """The stem that the names of a model's classes share, such as `Bert` of `BertForMaskedLM`."""
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        return None
    found = _STEM.fullmatch(str(architectures[0]))
    return found[1] if found else None
