"""Print norms of the updates of a kohya LoRA, each multiplied out; takes FILE."""

import sys

import torch
from safetensors.torch import load_file

stored = load_file(sys.argv[1])
for module in [key.removesuffix(".alpha") for key in stored if key.endswith(".alpha")]:
    up, down = stored[f"{module}.lora_up.weight"], stored[f"{module}.lora_down.weight"]
    scaling = stored[f"{module}.alpha"].item() / len(down)
    update = up.float() @ down.float() * scaling
    norm = torch.linalg.norm(update, dtype=torch.float64).item()
    print(module, norm, update.abs().mean().item())
