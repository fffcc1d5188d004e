#!/usr/bin/env python
"""Make the fixture that LyCORIS writes: Tucker cores and DoRA, with the weights that it merges to.

    python scripts/make_lycoris_fixture.py [FOLDER]

Needs `lycoris-lora` 4.1.3, which nothing else here does. The modules are LyCORIS' own, and so are
the names, the shapes and the merged weights. The numbers are multiples of 1/16, and float64.
"""

import argparse
import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from lycoris.modules.locon import LoConModule  # type: ignore[import-not-found]
from torch import Tensor, nn

NAME: Final = "lycoris-tucker-dora"
FIXTURES: Final = Path(__file__).resolve().parent.parent / "fixtures" / "kohya"
RANK, ALPHA = 2, 3

#: Each module with its layer, whether it has a core, and the axis of its magnitudes.
MODULES: Final[dict[str, tuple[nn.Module, bool, str | None]]] = {
    "fc_rows": (nn.Linear(6, 8), False, "row"),
    "fc_columns": (nn.Linear(6, 8), False, "column"),
    "conv_rows": (nn.Conv2d(6, 8, 3), False, "row"),
    "conv_columns": (nn.Conv2d(6, 8, 3), False, "column"),
    "core": (nn.Conv2d(6, 8, 3), True, None),
    "core_rows": (nn.Conv2d(6, 8, (3, 1)), True, "row"),
    "core_columns": (nn.Conv2d(6, 8, 3), True, "column"),
    "core_1d": (nn.Conv1d(6, 8, 5), True, "column"),
    "core_3d": (nn.Conv3d(6, 8, (1, 3, 3)), True, "row"),
    "square_columns": (nn.Conv2d(6, 6, 3), False, "column"),
}


def numbers(shape: tuple[int, ...], step: int) -> Tensor:
    """Multiples of 1/16 from -2 to 2 in a fixed order, as float64; tests make a base of them."""
    count = int(torch.tensor(shape).prod())
    return ((torch.arange(count) * step) % 65 - 32).double().reshape(shape) / 16


def main() -> None:
    """Write the fixture into the folder that is named, by default the repository's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=FIXTURES)
    folder = parser.parse_args().folder / NAME
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    merged: dict[str, Any] = {}
    for number, (name, (layer, has_core, axis)) in enumerate(MODULES.items()):
        layer.double()
        layer.weight.data = numbers(tuple(layer.weight.shape), 23)
        module = LoConModule(
            f"lora_unet_{name}", layer, 1.0, lora_dim=RANK, alpha=ALPHA, use_tucker=has_core,
            weight_decompose=axis is not None, wd_on_out=axis == "row",
        ).double()  # fmt: skip
        for step, part in enumerate(("lora_down", "lora_mid", "lora_up"), 3 * number + 7):
            if hasattr(module, part):
                weight = getattr(module, part).weight
                weight.data = numbers(tuple(weight.shape), step)
        if axis is not None:
            lengths = numbers(tuple(module.dora_scale.shape), 7).abs() + 1
            module.dora_scale = nn.Parameter(lengths)
        stored = {k: v.detach().float().clone() for k, v in module.custom_state_dict().items()}
        tensors |= {f"lora_unet_{name}.{part}": tensor for part, tensor in stored.items()}
        weight = module.get_merged_weight()[0].detach().flatten()
        # A sum with other numbers tells elements apart, which a norm does not.
        merged[name] = {
            "shape": list(layer.weight.shape),
            "norm": weight.norm().item(),
            "sum": (weight * numbers((len(weight),), 29)).sum().item(),
        }
    arguments = {"algo": "locon", "conv_dim": str(RANK), "conv_alpha": str(ALPHA)}
    metadata = {
        "ss_network_module": "lycoris.kohya",
        "ss_network_dim": str(RANK),
        "ss_network_alpha": str(ALPHA),
        "ss_network_args": json.dumps(arguments | {"use_tucker": "True", "dora_wd": "True"}),
    }
    path = folder / f"{NAME}.safetensors"
    safetensors.torch.save_file(tensors, path, metadata)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = {"sha256": digest, "tensors": len(tensors), "merged": merged}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    packages = ("lycoris-lora", "safetensors", "torch")
    source = {
        "made_by": "scripts/make_lycoris_fixture.py",
        "versions": {package: version(package) for package in packages},
        "shows": "LoCon and DoRA as LyCORIS saves and merges them: cores, both axes, all kernels",
    }
    (folder / "SOURCE.json").write_text(json.dumps(source, indent=1) + "\n")


if __name__ == "__main__":
    main()
