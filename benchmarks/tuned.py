"""A fine-tune of a synthetic base: each matrix plus an update of known spectrum, rounded once.

    python benchmarks/tuned.py BASE OUT --spectrum lora

`lora` has 32 singular values between 1 and 1/2, `slow` has 256 that fall as i^-0.8. Both are scaled
to a share of the weight's norm. Norms get small changes too. A tensor's seed is its name.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

SHARE: Final = 0.02
SPECTRA: Final = {
    "lora": torch.linspace(1, 0.5, 32),
    "slow": torch.arange(1, 257).float() ** -0.8,
}


def changed(name: str, weight: Tensor, spectrum: Tensor) -> Tensor:
    digest = hashlib.sha256(name.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
    if weight.dim() < 2:
        noise = torch.randn(weight.shape, generator=generator)
        return (weight.float() * (1 + 0.01 * noise)).to(weight.dtype)
    rows, columns = weight.shape
    values = spectrum[: min(rows, columns)]
    # Columns of Gaussian matrices are nearly orthogonal at these sizes.
    up = torch.randn(rows, len(values), generator=generator) * (values / rows**0.5)
    down = torch.randn(len(values), columns, generator=generator) / columns**0.5
    scale = SHARE * weight.float().norm() / values.norm()
    for begin in range(0, rows, 4096):
        block = weight[begin : begin + 4096]
        block.copy_(block.float().addmm_(up[begin : begin + 4096], down, alpha=scale.item()))
    return weight


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate a fine-tune of a synthetic base.")
    parser.add_argument("base", type=Path, metavar="BASE")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--spectrum", choices=list(SPECTRA), default="lora")
    parser.add_argument("--skip", nargs="*", default=["embed_tokens", "lm_head"], metavar="PART")
    arguments = parser.parse_args()
    unfinished = arguments.out.with_name(f"{arguments.out.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for path in sorted(arguments.base.iterdir()):
        if path.suffix != ".safetensors":
            shutil.copy(path, unfinished)
            continue
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, weight in tensors.items():
            if not any(part in name for part in arguments.skip):
                tensors[name] = changed(name, weight, SPECTRA[arguments.spectrum])
        save_file(tensors, unfinished / path.name, {"format": "pt"})
    unfinished.rename(arguments.out)
    print(json.dumps({"spectrum": arguments.spectrum, "share": SHARE, "out": str(arguments.out)}))


if __name__ == "__main__":
    main()
