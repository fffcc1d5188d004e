"""Resize a kohya LoRA by way of dense matrices; takes FILE OUT RANK [FEW].

Stands in for resize_lora.py of sd-scripts, which is not a package: each update is multiplied out in
float32, decomposed by a full SVD, truncated, and stored in the old dtype with alpha in proportion.

With FEW, only that many modules of each shape are done, and nothing is written. Prints the seconds
that all modules take, after imports and without writing: extrapolated by shape where FEW is given.
"""

import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

path, output, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
few = int(sys.argv[4]) if len(sys.argv) > 4 else None
stored = load_file(path)
with safe_open(path, "pt") as file:
    metadata = file.metadata()
modules: dict[tuple[int, int], list[str]] = defaultdict(list)
for module in [key.removesuffix(".alpha") for key in stored if key.endswith(".alpha")]:
    rows = len(stored[f"{module}.lora_up.weight"])
    modules[rows, stored[f"{module}.lora_down.weight"].shape[1]].append(module)
resized, total = {}, 0.0
for alike in modules.values():
    seconds = []
    for module in alike[:few]:
        start = time.perf_counter()
        up, down = stored[f"{module}.lora_up.weight"], stored[f"{module}.lora_down.weight"]
        u, values, vh = torch.linalg.svd(up.float() @ down.float())
        resized[f"{module}.lora_up.weight"] = (u[:, :wanted] * values[:wanted]).to(up.dtype)
        resized[f"{module}.lora_down.weight"] = vh[:wanted].to(down.dtype)
        resized[f"{module}.alpha"] = stored[f"{module}.alpha"] * (wanted / len(down))
        seconds.append(time.perf_counter() - start)
    total += mean(seconds) * len(alike)
if few is None:
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in resized.items()}, output, metadata)
print(total)
