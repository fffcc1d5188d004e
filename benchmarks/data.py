"""Synthetic bases and PEFT adapters of realistic shapes: seeded, streamed, the same every time.

    python benchmarks/data.py OUT --only base-1b,adapter-1b-all

Values are drawn in blocks of a few million, so memory does not grow with the model. A tensor's
seed is its folder and name, so the bytes do not depend on what else is generated. They hold for
one version of torch: its generator's stream is not promised across versions.
"""

import argparse
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch

BLOCK: Final = 1 << 22  # values drawn at once: 16 MiB of float32
SEED: Final = "loratools"
STORED_AS: Final = {torch.bfloat16: "BF16", torch.float32: "F32"}
LINEARS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@final
@dataclass(frozen=True)
class Draw:
    """One tensor to be written: Gaussian values of the given mean and standard deviation."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    std: float
    mean: float = 0.0

    @property
    def nbytes(self) -> int:
        """The tensor's size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize

    def blocks(self, folder: str) -> Iterator[memoryview]:
        """The tensor's bytes, a block at a time; valid until the next block is drawn."""
        digest = hashlib.sha256(f"{SEED}/{folder}/{self.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
        count = math.prod(self.shape)
        drawn = torch.empty(min(BLOCK, count))
        stored = torch.empty(drawn.shape, dtype=self.dtype)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            drawn[:size].normal_(self.mean, self.std, generator=generator)
            stored[:size].copy_(drawn[:size])
            yield stored[:size].view(torch.uint8).numpy().data


@final
@dataclass(frozen=True)
class Llama:
    """A Llama-like base; without a head it is a bare `LlamaModel`, whose keys have no prefix."""

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
        """What stands before every key but the head's."""
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
        """Every place in the model where a module of this name stands."""
        if module == "embed_tokens":
            return [f"{self.prefix}embed_tokens"]
        part = "mlp" if module in {"gate_proj", "up_proj", "down_proj"} else "self_attn"
        return [f"{self.prefix}layers.{layer}.{part}.{module}" for layer in range(self.layers)]

    def tensors(self) -> list[Draw]:
        """Every weight, layer by layer."""
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
        """Both factors of every targeted module, under the names PEFT files them."""
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
            # PEFT files an embedding's factors transposed, and without «.weight».
            rows, columns = columns, rows
            names = (
                f"base_model.model.{path}.lora_embedding_A",
                f"base_model.model.{path}.lora_embedding_B",
            )
        # PEFT starts A as kaiming_uniform(a=√5), whose standard deviation is 1/√(3·fan in).
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


BASES: Final = {
    "base-1b": Llama(18, 2048, 8192, heads=32, kv_heads=8, vocab=32_000, shards=4),
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
}
NAMES: Final = (*BASES, *ADAPTERS)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_safetensors(path: Path, tensors: Sequence[Draw], folder: str) -> None:
    """Write one file in the order of names, as the safetensors library does."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    ordered = sorted(tensors, key=lambda tensor: tensor.name)
    offset = 0
    for tensor in ordered:
        header[tensor.name] = {
            "dtype": STORED_AS[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [offset, offset := offset + tensor.nbytes],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered:
            for block in tensor.blocks(folder):
                file.write(block)


def write_base(folder: Path, name: str) -> None:
    base = BASES[name]
    shards: list[list[Draw]] = [[] for _ in range(base.shards)]
    total, offset = sum(tensor.nbytes for tensor in base.tensors()), 0
    for tensor in base.tensors():
        shards[offset * base.shards // total].append(tensor)
        offset += tensor.nbytes
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
    """Bytes of tensor data in a data set."""
    source = BASES[name] if name in BASES else ADAPTERS[name]
    return sum(tensor.nbytes for tensor in source.tensors())


def generate(out: Path, name: str) -> None:
    """Write one data set; under a provisional name until it is complete."""
    unfinished = out / f"{name}.partial"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    if name in BASES:
        write_base(unfinished, name)
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
