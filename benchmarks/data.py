"""Synthetic bases and PEFT adapters of realistic shapes: seeded, streamed, the same every time.

    python benchmarks/data.py OUT --only base-1b,adapter-1b-all

Values are drawn in blocks of a few million, so memory does not grow with the model. The bytes
depend on nothing but the version of torch; see `draws.py`.
"""

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
from draws import DecayingFactor, Draw, Drawn, size_in_file, write_safetensors

LINEARS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@final
@dataclass(frozen=True)
class Llama:
    """A Llama-like base; without a head it is a plain `LlamaModel`, whose keys have no prefix."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    shards: int
    head_dim: int = 64
    has_head: bool = True

    @property
    def prefix(self) -> str:
        """The prefix of every key but the head's."""
        return "model." if self.has_head else ""

    def shape(self, module: str) -> tuple[int, int]:
        """Rows (fan out) and columns (fan in) of a module's weight."""
        attention, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes = {
            "embed_tokens": (self.vocab, self.hidden),
            "q_proj": (attention, self.hidden),
            "k_proj": (key_value, self.hidden),
            "v_proj": (key_value, self.hidden),
            "o_proj": (self.hidden, attention),
            "gate_proj": (self.intermediate, self.hidden),
            "up_proj": (self.intermediate, self.hidden),
            "down_proj": (self.hidden, self.intermediate),
        }
        return shapes[module]

    def paths(self, module: str) -> list[str]:
        """The full paths of all modules of this name in the model."""
        if module == "embed_tokens":
            return [f"{self.prefix}embed_tokens"]
        part = "mlp" if module in {"gate_proj", "up_proj", "down_proj"} else "self_attn"
        return [f"{self.prefix}layers.{layer}.{part}.{module}" for layer in range(self.layers)]

    def tensors(self) -> list[Draw]:
        """All weights, layer by layer."""
        weights = [self._weight("embed_tokens", self.paths("embed_tokens")[0])]
        for layer in range(self.layers):
            weights += [self._weight(module, self.paths(module)[layer]) for module in LINEARS]
            for norm in ("input_layernorm", "post_attention_layernorm"):
                weights.append(self._norm(f"{self.prefix}layers.{layer}.{norm}"))
        weights.append(self._norm(f"{self.prefix}norm"))
        if self.has_head:
            weights.append(self._weight("embed_tokens", "lm_head"))
        return weights

    def config(self) -> dict[str, object]:
        """The model's `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM" if self.has_head else "LlamaModel"],
            "attention_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 4096,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocab,
        }

    def _weight(self, module: str, path: str) -> Draw:
        return Draw(f"{path}.weight", self.shape(module), torch.bfloat16, std=0.02)

    def _norm(self, path: str) -> Draw:
        return Draw(f"{path}.weight", (self.hidden,), torch.bfloat16, std=0.02, mean=1.0)


@final
@dataclass(frozen=True)
class Lora:
    """A PEFT LoRA in float32, PEFT's own default, on the named modules of a base."""

    base: str
    modules: tuple[str, ...]
    rank: int = 16
    alpha: int = 32

    def tensors(self) -> list[Draw]:
        """Both factors of every targeted module, under PEFT's names."""
        base = BASES[self.base]
        return [
            factor
            for module in self.modules
            for path in base.paths(module)
            for factor in self._factors(path, base.shape(module))
        ]

    def _factors(self, path: str, shape: tuple[int, int]) -> list[Draw]:
        rows, columns = shape
        names = (f"base_model.model.{path}.lora_A.weight", f"base_model.model.{path}.lora_B.weight")
        if path.endswith("embed_tokens"):
            # PEFT stores an embedding's factors transposed, and without «.weight».
            rows, columns = columns, rows
            names = (
                f"base_model.model.{path}.lora_embedding_A",
                f"base_model.model.{path}.lora_embedding_B",
            )
        # PEFT initialises A by kaiming_uniform(a=√5), whose standard deviation is 1/√(3·fan in).
        spread = 1 / math.sqrt(3 * columns)
        return [
            Draw(names[0], (self.rank, columns), torch.float32, std=spread),
            Draw(names[1], (rows, self.rank), torch.float32, std=0.01),
        ]

    def config(self) -> dict[str, object]:
        """The adapter's `adapter_config.json`."""
        has_head = BASES[self.base].has_head
        return {
            "base_model_name_or_path": self.base,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": self.rank,
            "target_modules": list(self.modules),
            "task_type": "CAUSAL_LM" if has_head else "FEATURE_EXTRACTION",
            "use_dora": False,
            "use_rslora": False,
        }


@final
@dataclass(frozen=True)
class Kohya:
    """A LoRA as sd-scripts writes it, in float16, on the U-Net of SDXL: 314 modules."""

    rank: int = 128
    alpha: int = 64

    def tensors(self) -> list[Drawn]:
        """Both factors and the alpha of every module."""
        return [tensor for module, shape in self._modules() for tensor in self._lora(module, shape)]

    def metadata(self) -> dict[str, str]:
        """The file's metadata, with two hashes that a tool which rewrites the file has to renew."""
        return {
            "ss_network_alpha": f"{self.alpha:.1f}",
            "ss_network_dim": str(self.rank),
            "ss_network_module": "networks.lora",
            "sshs_legacy_hash": "0" * 8,
            "sshs_model_hash": "0" * 64,
        }

    def _modules(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for block, width, depth in ((4, 640, 10), (7, 1280, 21)):
            for layer in range(depth):
                path = f"lora_unet_input_blocks_{block}_1_transformer_blocks_{layer}"
                for attention, context in (("attn1", width), ("attn2", 2048)):
                    yield f"{path}_{attention}_to_q", (width, width)
                    yield f"{path}_{attention}_to_k", (width, context)
                    yield f"{path}_{attention}_to_v", (width, context)
                    yield f"{path}_{attention}_to_out_0", (width, width)
                yield f"{path}_ff_net_0_proj", (8 * width, width)
                yield f"{path}_ff_net_2", (width, 4 * width)
        for block in (7, 8):
            for name in ("proj_in", "proj_out"):
                yield f"lora_unet_input_blocks_{block}_1_{name}", (1280, 1280)

    def _lora(self, module: str, shape: tuple[int, int]) -> list[Drawn]:
        rows, columns = shape
        spread = 1 / math.sqrt(columns)
        return [
            DecayingFactor(module, "lora_up", (rows, self.rank), torch.float16, std=0.02),
            DecayingFactor(module, "lora_down", (self.rank, columns), torch.float16, std=spread),
            Draw(f"{module}.alpha", (), torch.float16, std=0.0, mean=self.alpha),
        ]


BASES: Final = {
    "base-1b": Llama(18, 2048, 8192, heads=32, kv_heads=8, vocab=32_000, shards=4),
    "base-1b-2-layers": Llama(2, 2048, 8192, heads=32, kv_heads=8, vocab=32_000, shards=1),
    "base-3b": Llama(26, 3072, 8192, heads=24, kv_heads=8, vocab=128_256, shards=4, head_dim=128),
    "base-embedding-4gb": Llama(
        1, 2048, 8192, heads=32, kv_heads=8, vocab=1_000_000, shards=1, has_head=False
    ),
}
ADAPTERS: Final = {
    "adapter-1b-all": Lora("base-1b", LINEARS),
    "adapter-1b-qv": Lora("base-1b", ("q_proj", "v_proj")),
    "adapter-3b-all": Lora("base-3b", LINEARS),
    "adapter-embedding": Lora("base-embedding-4gb", ("q_proj", "embed_tokens")),
    # For `combine`, with a scaling of 1; also on two layers, for tools that take minutes.
    **{f"combine-{n}": Lora("base-1b", LINEARS, alpha=16) for n in (1, 2, 3)},
    **{f"combine-2-layers-{n}": Lora("base-1b-2-layers", LINEARS, alpha=16) for n in (1, 2, 3)},
}
KOHYA: Final = {"lora-sdxl": Kohya()}
NAMES: Final = (*BASES, *ADAPTERS, *KOHYA)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_base(folder: Path, name: str) -> None:
    base = BASES[name]
    shards: list[list[Draw]] = [[] for _ in range(base.shards)]
    total, offset = sum(map(size_in_file, base.tensors())), 0
    for tensor in base.tensors():
        shards[offset * base.shards // total].append(tensor)
        offset += size_in_file(tensor)
    write_json(folder / "config.json", base.config())
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    if base.shards == 1:
        write_safetensors(folder / "model.safetensors", shards[0], name)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{base.shards:05}.safetensors"
        places |= {tensor.name: file for tensor in shard}
        write_safetensors(folder / file, shard, name)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def write_adapter(folder: Path, name: str) -> None:
    adapter = ADAPTERS[name]
    write_json(folder / "adapter_config.json", adapter.config())
    write_safetensors(folder / "adapter_model.safetensors", adapter.tensors(), name)


def size_of(name: str) -> int:
    """The size of a data set's tensors in bytes."""
    source = {**BASES, **ADAPTERS, **KOHYA}[name]
    return sum(map(size_in_file, source.tensors()))


def generate(out: Path, name: str) -> None:
    """Write one data set, under a temporary name until it is complete."""
    unfinished = out / f"{name}.partial"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    if name in BASES:
        write_base(unfinished, name)
    elif name in KOHYA:
        path, lora = unfinished / f"{name}.safetensors", KOHYA[name]
        write_safetensors(path, lora.tensors(), name, lora.metadata())
    else:
        write_adapter(unfinished, name)
    unfinished.rename(out / name)


def chosen(text: str) -> list[str]:
    """The data sets named in a comma-separated list."""
    names = text.split(",")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown data set {unknown[0]!r}; known: {list(NAMES)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate the data of the benchmarks.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the data sets")
    parser.add_argument(
        "--only",
        type=chosen,
        default=list(NAMES),
        metavar="NAME,…",
        help=f"of {', '.join(NAMES)} (default: all)",
    )
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    missing = [name for name in arguments.only if not (out / name).exists()]
    needed, free = sum(map(size_of, missing)), shutil.disk_usage(out).free
    if needed > free:
        raise SystemExit(f"{out}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
    for name in arguments.only:
        if name in missing:
            generate(out, name)
        print(f"{name}: {size_of(name) / 1e9:.2f} GB{'' if name in missing else ', already there'}")


if __name__ == "__main__":
    main()
