"""Makes small models and adapters, of kinds and with faults that no fixture has.

Their bytes are the same in every run and for every revision of loratools: values are seeded, and
files are written with the safetensors library.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = Mapping[str, Tensor]

MODEL: Final = {
    "q.weight": (12, 8),
    "q.bias": (12,),
    "down.weight": (8, 12),
    "fused.weight": (12, 8),
    "conv.weight": (6, 4, 3, 3),
    "embed.weight": (10, 8),
    "attn.in_proj_weight": (24, 8),
    "attn.in_proj_bias": (24,),
    "attn.out_proj.weight": (8, 8),
    "attn.out_proj.bias": (8,),
    "norm.weight": (8,),
}


def make(folder: Path, fixtures: Path) -> None:
    """Write the bases `model`, `model-f16` and `unet`, and the folders `adapters` and `broken`."""
    for kind, dtype in (("model", torch.float32), ("model-f16", torch.float16)):
        tensors = {name: _values(name, *shape).to(dtype) for name, shape in MODEL.items()}
        _write(folder / kind / "model.safetensors", tensors)
        (folder / kind / "config.json").write_text('{"model_type": "made"}\n')
    _write(folder / "unet" / "model.safetensors", _unet(fixtures))
    _make_peft(folder / "adapters")
    _make_kohya(folder / "adapters")
    _make_broken(folder / "broken")


def _make_peft(folder: Path) -> None:
    q, down = _pair("q", (12, 8)), _pair("down", (8, 12))
    conv = _pair("conv", (6, 4, 3, 3))
    embedding = {
        "embed.lora_embedding_A": _values("ea", 2, 10),
        "embed.lora_embedding_B": _values("eb", 8, 2),
    }
    attention = _pair("attn", (24, 8)) | _pair("attn.base_layer.out_proj", (8, 8))
    magnitudes = {
        "q.lora_magnitude_vector.weight": _values("mq", 12).abs() + 1,
        "conv.lora_magnitude_vector.weight": _values("mc", 1, 6, 1, 1).abs() + 1,
        "embed.lora_magnitude_vector.weight": _values("me", 8).abs() + 1,
    }
    linears = q | down
    _peft(folder / "lora", linears | conv | embedding)
    _peft(folder / "rslora", linears, use_rslora=True)
    _peft(folder / "patterns", linears, rank_pattern={"q": 2}, alpha_pattern={"^down$": 5}, r=2)
    _peft(folder / "dora", q | conv | embedding | magnitudes, use_dora=True)
    diagonals = {"q.lora_diag": _values("dq", 2), "down.lora_diag": _values("dd", 2)}
    _peft(folder / "kasa", linears | diagonals)
    _peft(folder / "kasa-and-lora", linears | {"q.lora_diag": _values("dq", 2)})
    _peft(folder / "attention", attention, peft_version="0.19.0")
    _peft(folder / "attention-of-later", attention, peft_version="9.0.0")
    _peft(folder / "bias", q | {"q.lora_B.bias": _values("b", 12)}, lora_bias=True)
    fused = {
        "fused.lora_A.weight": _values("fa", 4, 8),
        "fused.lora_B.weight": _values("fb", 8, 2),
    }
    _peft(folder / "fused", fused, enable_lora=[True, False, True])
    blocks = {"down.lora_A.weight": _values("ba", 2, 6), "down.lora_B.weight": down[_up_of("down")]}
    settings = {"target_modules_bd_a": ["down"], "target_modules_bd_b": [], "nblocks": 2}
    _peft(folder / "blocks", blocks, use_bdlora=settings)
    rows = {"embed.token_adapter.trainable_tokens_delta": _values("t", 2, 8)}
    _peft(folder / "rows", linears | rows, trainable_token_indices={"embed": [7, 2]})
    whole = {"norm.weight": _values("n", 8), "head.weight": _values("h", 3, 8)}
    _peft(folder / "whole", linears | whole, modules_to_save=["norm", "head"])
    named = {key.replace(".weight", ".mine.weight"): value for key, value in q.items()}
    _peft(folder / "named", named)
    _peft(folder / "untrained", {key: value * ("lora_A" in key) for key, value in q.items()})
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        name = str(dtype).removeprefix("torch.")
        _peft(folder / name, {key: value.to(dtype) for key, value in linears.items()})
    _peft_in_two_files(folder / "two-files", linears)


def _make_kohya(folder: Path) -> None:
    linear = _kohya("lora_unet_q", (12, 8)) | _kohya("lora_unet_down", (8, 12))
    _write(folder / "kohya.safetensors", linear | _kohya("lora_unet_conv", (6, 4, 3, 3)))
    _write(folder / "kohya-f16.safetensors", {key: t.half() for key, t in linear.items()})
    _write(folder / "kohya-other-alphas.safetensors", linear | {"lora_unet_q.alpha": _one(0.3)})
    ss = {"ss_network_dim": "2", "ss_network_alpha": "1.0", "sshs_model_hash": "0" * 64}
    _write(folder / "kohya-metadata.safetensors", linear, ss)


def _make_broken(folder: Path) -> None:
    q, kohya = _pair("q", (12, 8)), _kohya("lora_unet_q", (12, 8))
    _peft(folder / "nan", q | {_up_of("q"): q[_up_of("q")] / 0})
    _peft(folder / "half-a-pair", {_up_of("q"): q[_up_of("q")]})
    _peft(folder / "factors-that-do-not-fit", q | {_up_of("q"): _values("odd", 12, 3)})
    _peft(folder / "unknown-part", q | {"q.lora_C.weight": _values("c", 2)})
    _peft(folder / "of-another-type", q, peft_type="IA3")
    _peft(folder / "prompts", {"prompt_embeddings": _values("p", 4, 8)}, peft_type="PROMPT_TUNING")
    _peft(folder / "without-alpha", q, lora_alpha=None)
    _peft(folder / "integers", {key: value.int() for key, value in q.items()})
    _peft(folder / "wrong-shape", _pair("q", (9, 8)))
    _peft(folder / "unmatched", q | _pair("nowhere", (12, 8)))
    _peft(folder / "two-adapters", q | {_up_of("down").replace(".w", ".b.w"): _values("z", 8, 2)})
    _peft(folder / "both-dialects", q | kohya)
    _peft(folder / "truncated", q)
    weights = folder / "truncated" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    _peft(folder / "without-weights", q)
    (folder / "without-weights" / "adapter_model.safetensors").unlink()
    _peft(folder / "config-is-no-json", q)
    (folder / "config-is-no-json" / "adapter_config.json").write_text("{")
    _write(folder / "peft-without-config.safetensors", q)
    _write(folder / "kohya-and-peft.safetensors", kohya | {f"lora.{k}": v for k, v in q.items()})
    lycoris = {f"lora_unet_q.hada_w{n}_{x}": _values(f"{n}{x}", 2, 8) for n in "12" for x in "ab"}
    _write(folder / "loha.safetensors", lycoris)
    _write(folder / "kohya-dora.safetensors", kohya | {"lora_unet_q.dora_scale": _values("s", 12)})
    without = {key: value for key, value in kohya.items() if "alpha" not in key}
    _write(folder / "kohya-without-alpha.safetensors", without)
    _write(folder / "a-model.safetensors", {"q.weight": _values("q", 12, 8)})
    _write(folder / "nothing.safetensors", {})
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "empty-folder").mkdir()


def _unet(fixtures: Path) -> Tensors:
    """A base with the weights that the kohya fixtures update, except SDXL's two text encoders."""
    tensors = {}
    for file in sorted((fixtures / "kohya").glob("*/*.safetensors")):
        factors = load_file(file)
        for key, up in factors.items():
            if found := re.fullmatch(r"lora_(?:unet|te)_(.+)\.lora_up\.weight", key):
                rest = factors[key.replace("lora_up", "lora_down")].shape[1:]
                tensors[f"{found[1]}.weight"] = _values(found[1], up.shape[0], *rest).half()
    return tensors


def _peft(folder: Path, tensors: Tensors, **config: Any) -> None:
    fields = {"peft_type": "LORA", "base_model_name_or_path": "model", "r": 2, "lora_alpha": 3}
    _write(folder / "adapter_model.safetensors", _prefixed(tensors))
    text = json.dumps({**fields, **config}, indent=2)
    (folder / "adapter_config.json").write_text(f"{text}\n")


def _peft_in_two_files(folder: Path, tensors: Tensors) -> None:
    _peft(folder, tensors)
    (folder / "adapter_model.safetensors").unlink()
    places = {}
    for number, (key, value) in enumerate(_prefixed(tensors).items()):
        places[key] = f"adapter_model-{number + 1:05}-of-{len(tensors):05}.safetensors"
        _write(folder / places[key], {key: value})
    index = json.dumps({"metadata": {}, "weight_map": places}, indent=2)
    (folder / "adapter_model.safetensors.index.json").write_text(f"{index}\n")


def _prefixed(tensors: Tensors) -> Tensors:
    return {f"base_model.model.{key}": value for key, value in tensors.items()}


def _pair(module: str, shape: tuple[int, ...], rank: int = 2) -> dict[str, Tensor]:
    """Seeded factors for a weight of this shape, with PEFT's keys."""
    rows, *rest = shape
    return {
        f"{module}.lora_A.weight": _values(f"{module} A", rank, *rest),
        _up_of(module): _values(f"{module} B", rows, rank, *(1 for _ in rest[1:])),
    }


def _up_of(module: str) -> str:
    return f"{module}.lora_B.weight"


def _kohya(module: str, shape: tuple[int, ...], rank: int = 2) -> dict[str, Tensor]:
    """Seeded factors and an alpha for a weight of this shape, with kohya's keys."""
    down, up = _pair(module, shape, rank).values()
    return {
        f"{module}.alpha": _one(1.0),
        f"{module}.lora_down.weight": down,
        f"{module}.lora_up.weight": up,
    }


def _one(value: float) -> Tensor:
    return torch.tensor(value)


def _values(seed: str, *shape: int) -> Tensor:
    """Normally distributed values that depend only on the shape and the text `seed`."""
    generator = torch.Generator().manual_seed(int.from_bytes(seed.encode()) % 2**63)
    return torch.randn(shape, generator=generator)


def _write(file: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {key: value.contiguous() for key, value in tensors.items()}
    save_file(contiguous, file, metadata or {"format": "pt"})
    _sort_metadata(file)


def _sort_metadata(file: Path) -> None:
    """Sort the metadata in a safetensors file, which the library writes in a random order."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(end - 8)
    file.write_bytes(data[:8] + text + data[end:])
