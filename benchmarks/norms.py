"""Check that norms are summed in float64, by `inspect --spectrum --base` on 1e8 elements.

    python benchmarks/norms.py FOLDER

torch adds up the norm of a float32 tensor on the CPU in float32: at this size it is off by a
percent. The base is one float32 weight of 400 MB, deleted afterwards.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import torch
from data import write_json
from draws import Draw, write_safetensors
from safetensors import safe_open
from tools import CHECKOUT, environment

WIDTH: Final = 10_000
RANK: Final = 4
NAME: Final = "model.layers.0.self_attn.q_proj"


def write(folder: Path) -> tuple[Path, Path]:
    base, adapter = folder / "base", folder / "adapter"
    for each in (base, adapter):
        each.mkdir(parents=True)
    weight = Draw(f"{NAME}.weight", (WIDTH, WIDTH), torch.float32, std=0.02)
    write_safetensors(base / "model.safetensors", [weight], "norms")
    write_json(base / "config.json", {"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    key = f"base_model.model.{NAME}.lora"
    factors = [
        Draw(f"{key}_A.weight", (RANK, WIDTH), torch.float32, std=0.01),
        Draw(f"{key}_B.weight", (WIDTH, RANK), torch.float32, std=0.01),
    ]
    write_safetensors(adapter / "adapter_model.safetensors", factors, "norms")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["q_proj"]}
    write_json(adapter / "adapter_config.json", config)
    return base, adapter


def read(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, "pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor


def main() -> None:
    folder = Path(sys.argv[1]) / "norms"
    shutil.rmtree(folder, ignore_errors=True)
    base, adapter = write(folder)
    command = ["inspect", adapter, "--base", base, "--spectrum", "--json"]
    output = subprocess.run(
        [sys.executable, "-m", "loratools", *map(str, command)],
        env=environment(CHECKOUT),
        check=True,
        capture_output=True,
    ).stdout
    relative = json.loads(output)["modules"][0]["relative"]
    weight = read(base / "model.safetensors", f"{NAME}.weight")
    stored = adapter / "adapter_model.safetensors"
    up, down = (read(stored, f"base_model.model.{NAME}.lora_{f}.weight").double() for f in "BA")
    update = (up @ down).norm()
    exact = sum(block.double().square().sum() for block in weight.split(1000)).sqrt()
    print(f"relative norm, float64: {update / exact:.12f}")
    print(f"loratools:              {relative:.12f}, off by {relative * exact / update - 1:.1e}")
    print(f"torch.linalg.norm of the base in float32: off by {weight.norm() / exact - 1:.1e}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
