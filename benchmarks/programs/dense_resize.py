"""A kohya LoRA at another rank by way of dense matrices: FILE OUT RANK.

Stands in for resize_lora.py of sd-scripts, which is not a package: each update is multiplied out in
float32, decomposed by one full SVD, cut off, and filed in the old dtype with alpha in proportion.
"""

import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

path, output, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
stored = load_file(path)
with safe_open(path, "pt") as file:
    metadata = file.metadata()
resized = {}
for module in [key.removesuffix(".alpha") for key in stored if key.endswith(".alpha")]:
    up, down = stored[f"{module}.lora_up.weight"], stored[f"{module}.lora_down.weight"]
    u, values, vh = torch.linalg.svd(up.float() @ down.float())
    resized[f"{module}.lora_up.weight"] = (u[:, :wanted] * values[:wanted]).to(up.dtype)
    resized[f"{module}.lora_down.weight"] = vh[:wanted].to(down.dtype)
    resized[f"{module}.alpha"] = stored[f"{module}.alpha"] * (wanted / len(down))
Path(output).parent.mkdir(parents=True, exist_ok=True)
save_file({key: tensor.contiguous() for key, tensor in resized.items()}, output, metadata)
