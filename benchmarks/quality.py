"""Compare results with the best possible ones, in float64 and without loratools' own code.

Adapters are read with the safetensors library. Each function returns the figure of the worst module
that it checks.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor


def _tensor(folder: Path, name: str) -> Tensor:
    """A tensor of a folder's files, in float64."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            if name in file.keys():  # noqa: SIM118  # the file object is not a mapping
                return file.get_tensor(name).double()
    raise KeyError(name)


def _update(adapter: Path, module: str, layer: int = 0) -> Tensor:
    """The update that a PEFT adapter adds to a weight, in float64."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    path = f"base_model.model.model.layers.{layer}.{module}"
    up, down = (_tensor(adapter, f"{path}.lora_{factor}.weight") for factor in "BA")
    return up @ down * (config["lora_alpha"] / config["r"])


def _squares(matrix: Tensor) -> Tensor:
    """The squared singular values of a matrix, the largest first."""
    gram = matrix.T @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.T
    return torch.linalg.eigvalsh(gram).clamp(min=0).flip(0)


def _error(found: Tensor, wanted: Tensor, rank: int) -> float:
    """The Frobenius error, divided by that of the best approximation of this rank (dense SVD)."""
    values = torch.linalg.svdvals(wanted)
    return ((found - wanted).norm() / values[rank:].norm()).item()


def of_sum(found: Path, adapters: Sequence[Path], modules: Sequence[str], *, rank: int) -> str:
    errors = [
        _error(_update(found, module), sum(_update(each, module) for each in adapters), rank)
        for module in modules
    ]
    return f"{max(errors):.7f}"


def of_ties(
    found: Path, adapters: Sequence[Path], module: str, *, rank: int, density: float
) -> str:
    """The error of a TIES combination, relative to the optimum for PEFT's TIES in float64."""
    from peft.utils.merge_utils import ties

    updates = [_update(adapter, module) for adapter in adapters]
    wanted = ties(updates, torch.ones(len(updates), dtype=torch.float64), density)
    return f"{_error(_update(found, module), wanted, rank):.7f}"


def of_resized(found: Path, stored: Path, *, rank: int) -> str:
    """The largest relative error over all modules of a resized LoRA.

    Each comes from the R factors of the old and the new factors side by side, without the product.
    """
    worst = 0.0
    with safe_open(stored, "pt") as before, safe_open(found, "pt") as after:
        for key in before.keys():  # noqa: SIM118  # it is no mapping
            if not key.endswith(".alpha"):
                continue
            (up, down), (new_up, new_down) = (
                _factors(file, key.removesuffix(".alpha")) for file in (before, after)
            )
            left = torch.linalg.qr(torch.cat([up, new_up], 1), mode="r").R
            right = torch.linalg.qr(torch.cat([down, -new_down]).T, mode="r").R
            old = left[:, : up.shape[1]] @ right[:, : len(down)].T
            error = (left @ right.T).norm() / torch.linalg.svdvals(old)[rank:].norm()
            worst = max(worst, error.item())
    return f"{worst:.7f}"


def _factors(file: safe_open, module: str) -> tuple[Tensor, Tensor]:
    """The factors of a module of a kohya LoRA in float64, with the scaling in `up`."""
    up, down, alpha = (
        file.get_tensor(f"{module}.{part}").double()
        for part in ("lora_up.weight", "lora_down.weight", "alpha")
    )
    return up * (alpha / len(down)), down


def of_extracted(found: Path, tuned: Path, base: Path, *, rank: int) -> str:
    """The energy kept, relative to the maximum, on all linear layers of the first block."""
    kept = []
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    for module in (*attention, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
        name = f"model.layers.0.{module}.weight"
        wanted = _tensor(tuned, name) - _tensor(base, name)
        missed = (wanted - _update(found, module)).square().sum()
        kept.append((wanted.square().sum() - missed) / _squares(wanted)[:rank].sum())
    return f"{min(kept).item():.6f}"
