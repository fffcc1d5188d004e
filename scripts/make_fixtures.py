#!/usr/bin/env python
"""Make the fixtures: tiny bases, and the adapters that the real PEFT trains and writes on them.

    python scripts/make_fixtures.py [FOLDER]

Reads only `fixtures/stories260k/`, which is copied in by hand, and needs no network. Everything is
seeded: two runs with the same versions on the same machine write the same bytes.
"""

import argparse
import hashlib
import json
import random
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, final

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

FIXTURES: Final = Path(__file__).resolve().parent.parent / "fixtures"
LLAMA: Final = "stories260k"
GPT2: Final = "tiny-gpt2"
ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEAR: Final = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
CONV1D: Final = ("c_attn", "c_proj", "c_fc")
VOCABULARY: Final = 512
NEW_TOKENS: Final = tuple(f"<|new{number}|>" for number in range(8))
WORDS: Final = (
    "once upon a time there was a little girl boy named Lily Tom who loved to play with the big "
    "red ball in park one day she saw small bird and asked do you want be my friend yes said they "
    "were happy and together looked through window into kitchen where grandmother baked bread "
    "went home together mother father smiled because sun shining flowers garden dog cat ran jumped "
    "laughed very much every morning after school found shiny stone under old tree near river"
)


@final
@dataclass(frozen=True)
class Recipe:
    """One adapter to be made: the base it is trained on, its PEFT configuration, its purpose."""

    name: str
    shows: str
    lora: Mapping[str, Any]
    seed: int
    base: str = LLAMA
    grown: bool = False
    tokens: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


RECIPES: Final = (
    Recipe(
        name="plain",
        shows="plain LoRA on every linear layer of a Llama with grouped-query attention",
        lora={"r": 8, "lora_alpha": 16, "target_modules": LINEAR},
        seed=1,
    ),
    Recipe(
        name="rslora-patterns",
        shows="alpha over the square root of the rank; ranks and alphas by pattern",
        lora={
            "r": 4,
            "lora_alpha": 8,
            "use_rslora": True,
            "target_modules": LINEAR,
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, ".*mlp.*": 6},
            "alpha_pattern": {
                "layers.1.self_attn.q_proj": 6,
                r"layers\.[0-2]\.mlp\.(up|down)_proj": 3,
                r"^model\.layers\.4\.self_attn\.o_proj": 5,
            },
        },
        seed=2,
        notes=(
            "No target matches two patterns of one table: PEFT takes the first match in the order "
            "given, but writes the tables sorted by key, so overlapping patterns change meaning "
            "when they are read back.",
        ),
    ),
    Recipe(
        name="dora",
        shows="DoRA on linear layers and on the embedding of a tied model",
        lora={
            "r": 4,
            "lora_alpha": 8,
            "use_dora": True,
            "target_modules": ("q_proj", "v_proj", "down_proj", "embed_tokens"),
        },
        seed=3,
        notes=(
            "The embedding's magnitude has one entry a column of the stored weight (64), that of "
            "a linear layer one a row.",
            "embed_tokens.base_layer.weight is the base's own embedding, unchanged: PEFT stores it "
            "whenever an embedding is a target.",
            "The base is tied: PEFT's merge changes lm_head too, its unmerged forward does not.",
        ),
    ),
    Recipe(
        name="embedding-vocab",
        shows="a vocabulary grown by 8 tokens, with embed_tokens and lm_head in modules_to_save",
        lora={
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ("q_proj", "v_proj"),
            "modules_to_save": ["embed_tokens", "lm_head"],
        },
        seed=4,
        grown=True,
        tokens=tuple(range(VOCABULARY, VOCABULARY + len(NEW_TOKENS))),
        notes=(
            "Both tables are stored three times: X.weight and X.modules_to_save.weight hold the "
            "same trained values, X.original_module.weight the untrained resized table. PEFT does "
            "so where it reads another vocab_size in the base's config.json; else X.weight only.",
            "The base is tied, but the trained embed_tokens and lm_head differ: they were copied "
            "apart for training. PEFT's merge sets tie_word_embeddings to false.",
        ),
    ),
    Recipe(
        name="embedding-lora-resized",
        shows="LoRA on an embedding whose vocabulary was grown by 8 tokens",
        lora={"r": 4, "lora_alpha": 8, "target_modules": ("q_proj", "embed_tokens")},
        seed=5,
        grown=True,
        tokens=tuple(range(VOCABULARY, VOCABULARY + len(NEW_TOKENS))),
        notes=(
            "embed_tokens.base_layer.weight is the resized table without its LoRA; its first 512 "
            "rows are the base's. lora_embedding_A and _B have no .weight suffix.",
            "The base is tied: PEFT's merge changes lm_head too, its unmerged forward does not.",
        ),
    ),
    Recipe(
        name="trainable-tokens",
        shows="LoRA beside three trained rows of the tied embedding",
        lora={
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ("q_proj", "v_proj"),
            "trainable_token_indices": [5, 17, 511],
        },
        seed=6,
        tokens=(5, 17, 511),
        notes=(
            "trainable_tokens_delta holds the new rows themselves, not differences.",
            "The base is tied: the same rows replace those of lm_head; one tensor is stored.",
        ),
    ),
    Recipe(
        name="lm-head",
        shows="LoRA on the output head of a tied model",
        lora={"r": 4, "lora_alpha": 8, "target_modules": ("q_proj", "lm_head")},
        seed=7,
        notes=(
            "lm_head.base_layer.weight is the base's own table, unchanged.",
            "The base is tied: PEFT's merge changes embed_tokens too, its unmerged forward does "
            "not.",
        ),
    ),
    Recipe(
        name="combine-r4",
        shows="for combinations: rank 4, scaling 2, query and value",
        lora={"r": 4, "lora_alpha": 8, "target_modules": ("q_proj", "v_proj")},
        seed=8,
    ),
    Recipe(
        name="combine-r8",
        shows="for combinations: rank 8, scaling 1, all of attention",
        lora={"r": 8, "lora_alpha": 8, "target_modules": ATTENTION},
        seed=9,
    ),
    Recipe(
        name="combine-r16",
        shows="for combinations: rank 16, scaling 0.75, every linear layer",
        lora={"r": 16, "lora_alpha": 12, "target_modules": LINEAR},
        seed=10,
    ),
    Recipe(
        name="gpt2-conv1d",
        shows="LoRA on Conv1D layers, whose weights are stored transposed; attn.c_proj is square",
        lora={"r": 4, "lora_alpha": 8, "target_modules": CONV1D, "fan_in_fan_out": True},
        seed=11,
        base=GPT2,
    ),
    Recipe(
        name="gpt2-conv1d-dora",
        shows="DoRA on Conv1D layers",
        lora={
            "r": 4,
            "lora_alpha": 8,
            "target_modules": CONV1D,
            "fan_in_fan_out": True,
            "use_dora": True,
        },
        seed=12,
        base=GPT2,
        notes=("The magnitude has one entry an output, a column of the stored Conv1D weight.",),
    ),
    Recipe(
        name="gpt2-lora-bias",
        shows="lora_bias: the up factor has a bias of its own",
        lora={
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ("c_attn", "c_fc"),
            "fan_in_fan_out": True,
            "lora_bias": True,
        },
        seed=13,
        base=GPT2,
        notes=("The merged bias is bias + scaling * lora_B.bias.",),
    ),
    Recipe(
        name="gpt2-bias-all",
        shows='bias="all": every bias of the base is trained and stored',
        lora={
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ("c_attn",),
            "fan_in_fan_out": True,
            "bias": "all",
        },
        seed=14,
        base=GPT2,
        notes=("A target's bias is stored as X.base_layer.bias, any other as X.bias.",),
    ),
    Recipe(
        name="gpt2-lora-bias-all",
        shows='lora_bias and bias="all" together: targets have two stored biases each',
        lora={
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ("c_attn", "c_fc"),
            "fan_in_fan_out": True,
            "lora_bias": True,
            "bias": "all",
        },
        seed=15,
        base=GPT2,
        notes=("The merged bias is base_layer.bias (trained) + scaling * lora_B.bias.",),
    ),
)


def main() -> None:
    """Make all fixtures in the folder that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FIXTURES)
    folder: Path = parser.parse_args().folder
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # One thread: a sum split over threads is not the same sum on a machine with other cores.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    make_companions(folder / LLAMA)
    make_sharded(folder / "stories260k-bf16-sharded")
    make_gpt2(folder / GPT2)
    bases = {LLAMA: FIXTURES / LLAMA, GPT2: folder / GPT2}
    for recipe in RECIPES:
        make_adapter(recipe, base=bases[recipe.base], folder=folder / "adapters" / recipe.name)


def make_companions(folder: Path) -> None:
    """Write the tokenizer and generation_config.json that lie beside a Llama's weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save_pretrained(folder)
    GenerationConfig(bos_token_id=1, eos_token_id=2).save_pretrained(folder)


def make_sharded(folder: Path) -> None:
    """Write the Llama in bfloat16, in two shards, with the tied head left out."""
    model = AutoModelForCausalLM.from_pretrained(FIXTURES / LLAMA).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="300KB")
    make_companions(folder)
    config = json.loads((FIXTURES / LLAMA / "config.json").read_text())
    write_json(folder / "config.json", config | {"torch_dtype": "bfloat16"})
    write_source(
        folder,
        base=LLAMA,
        shows="a sharded bfloat16 base whose tied output head is not stored",
        notes=["Each tensor is the float32 one, rounded once to bfloat16."],
    )


def make_gpt2(folder: Path) -> None:
    """Write a random GPT-2, whose linear layers are Conv1D and have biases."""
    seed = 100
    torch.manual_seed(seed)
    config = GPT2Config(
        n_embd=48,
        n_layer=2,
        n_head=4,
        n_positions=64,
        vocab_size=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):  # GPT-2 starts them at zero, and a zero hides a wrong merge
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder)
    write_source(
        folder,
        seed=seed,
        shows="an untrained GPT-2: Conv1D weights stored (in, out), and biases",
        notes=["The output head is tied and not stored. attn.c_proj is square: 48 by 48."],
    )


def make_adapter(recipe: Recipe, *, base: Path, folder: Path) -> None:
    """Train one adapter, save it with PEFT, and write beside it what a correct reader finds."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = train(recipe, base)
        adapted.save_pretrained(str(folder))
    (folder / "README.md").unlink()  # PEFT's model card, an empty form
    settle_config(folder / "adapter_config.json", recipe)
    if recipe.grown:
        words = tokenizer()
        words.add_special_tokens({"additional_special_tokens": list(NEW_TOKENS)})
        words.save_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # recorded above, and the same again when reading back
        check_reload(recipe, adapted, base=base, folder=folder)
        write_json(folder / "expected.json", expected(recipe, base=base, folder=folder))
    write_source(
        folder,
        base=recipe.base,
        seed=recipe.seed,
        shows=recipe.shows,
        notes=recipe.notes,
        peft_warnings=peft_warnings(caught),
    )


def train(recipe: Recipe, base: Path) -> PeftModel:
    """The base with the recipe's adapter after eight steps of AdamW on a language-model loss."""
    model = load_base(recipe, base)
    torch.manual_seed(recipe.seed)
    adapted = get_peft_model(model, lora_config(recipe))
    adapted.train()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    # No decay: a row of a table that no batch touches stays equal to the base's, bit for bit.
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    for tokens in batches(recipe, vocabulary=model.config.vocab_size):
        optimizer.zero_grad()
        adapted(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    return adapted.eval()


def lora_config(recipe: Recipe) -> LoraConfig:
    """The recipe's PEFT configuration."""
    settings = dict(recipe.lora) | {"target_modules": list(recipe.lora["target_modules"])}
    return LoraConfig(task_type="CAUSAL_LM", **settings)


def load_base(recipe: Recipe, base: Path) -> PreTrainedModel:
    """The base in float32, with the vocabulary the recipe is trained with."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base)
    if recipe.grown:
        torch.manual_seed(recipe.seed)  # the new rows are drawn at random
        model.resize_token_embeddings(VOCABULARY + len(NEW_TOKENS))
    return model


def batches(recipe: Recipe, *, vocabulary: int, steps: int = 8) -> Iterator[Tensor]:
    """Batches of four sequences that count through the vocabulary, then the recipe's tokens."""
    generator = torch.Generator().manual_seed(recipe.seed)
    ending = torch.tensor(recipe.tokens, dtype=torch.long).expand(4, -1)
    for _ in range(steps):
        first = torch.randint(vocabulary, (4, 1), generator=generator)
        stride = torch.randint(1, 9, (4, 1), generator=generator)
        yield torch.cat([(first + stride * torch.arange(32)) % vocabulary, ending], dim=1)


def settle_config(path: Path, recipe: Recipe) -> None:
    """Rewrite the parts of a config that vary: the base's path, and lists made from sets."""
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = recipe.base
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def check_reload(recipe: Recipe, adapted: PeftModel, *, base: Path, folder: Path) -> None:
    """Fail on an adapter that does not read back as trained, or whose merge changes nothing."""
    tokens = next(batches(recipe, vocabulary=adapted.config.vocab_size))
    with torch.no_grad():
        reloaded = PeftModel.from_pretrained(load_base(recipe, base), folder).eval()
        if not torch.equal(reloaded(tokens).logits, adapted(tokens).logits):
            raise SystemExit(f"{recipe.name}: PEFT reads back another adapter than it wrote")
        merged = reloaded.merge_and_unload()(tokens).logits
        unchanged = load_base(recipe, base).eval()(tokens).logits
    change = float((merged - unchanged).abs().max())
    if change < 1e-2:
        raise SystemExit(f"{recipe.name}: merging moves no logit by more than {change!r}")


def expected(recipe: Recipe, *, base: Path, folder: Path) -> dict[str, object]:
    """What a correct reader finds: digest, number of tensors, and norms as PEFT computes them.

    `delta_norms` are those of `get_delta_weight` (for DoRA: before normalisation), by target;
    `merged_change_norms` are of merged - base, by tensor of the base, over the rows it stores.
    """
    path = folder / "adapter_model.safetensors"
    with safe_open(path, framework="pt") as stored:
        tensors = len(stored.keys())
    adapted = PeftModel.from_pretrained(load_base(recipe, base).double(), folder)
    prefix = "base_model.model."
    deltas = {
        name.removeprefix(prefix): norm(module.get_delta_weight("default"))
        for name, module in adapted.named_modules()
        if isinstance(module, LoraLayer)
    }
    if not all(deltas.values()):
        raise SystemExit(f"{recipe.name}: a target's update is zero")
    merged = adapted.merge_and_unload().state_dict()
    original = AutoModelForCausalLM.from_pretrained(base).double().state_dict()
    changes = {name: norm(merged[name][: len(was)] - was) for name, was in original.items()}
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "tensors": tensors,
        "delta_norms": deltas,
        "merged_change_norms": {name: size for name, size in changes.items() if size},
    }


def norm(matrix: Tensor) -> float:
    """The Frobenius norm in float64."""
    return float(torch.linalg.vector_norm(matrix.detach(), dtype=torch.float64))


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of exactly 512 tokens, with the special tokens where Llama has them."""
    generator = random.Random(0)
    text = [" ".join(generator.choices(WORDS.split(), k=12)) + "." for _ in range(400)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(text, trainer)
    if bpe.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"the tokenizer has {bpe.get_vocab_size()} tokens, not {VOCABULARY}")
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=512,
    )


def peft_warnings(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """The distinct warnings PEFT gave its user, in order."""
    texts = [re.sub(r"\s+", " ", str(item.message)) for item in caught]
    kept = [text for text, item in zip(texts, caught, strict=True) if is_for_user(item)]
    return list(dict.fromkeys(kept))


def is_for_user(warning: warnings.WarningMessage) -> bool:
    """Whether a warning is about the adapter rather than about how PEFT is programmed."""
    return issubclass(warning.category, UserWarning)


def write_source(folder: Path, *, shows: str, notes: Sequence[str], **more: object) -> None:
    """Write SOURCE.json: where a made fixture comes from and what it is for."""
    versions = {name: version(name) for name in ("peft", "transformers", "tokenizers", "torch")}
    about = {"made_by": "scripts/make_fixtures.py", "versions": versions, **more}
    write_json(folder / "SOURCE.json", about | {"shows": shows, "notes": list(notes)})


def write_json(path: Path, value: object) -> None:
    """Write one JSON document, indented by one space as the published SOURCE.json files are."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
