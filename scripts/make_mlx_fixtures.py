#!/usr/bin/env python
"""Make the fixtures in MLX's format: adapters that mlx-lm makes and saves, with seeded numbers.

    pip install "mlx[cpu]" mlx-lm
    python scripts/make_mlx_fixtures.py [FOLDER]

The base is `fixtures/stories260k`. What mlx-lm's own `fuse` changes is noted beside each adapter.
Neither uses loratools. Needs no network, and writes the same bytes in every run on one machine.
"""

import argparse
import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

FIXTURES: Final = Path(__file__).resolve().parent.parent / "fixtures"
BASE: Final = "stories260k"
#: Each adapter: what it shows, the number of layers, whether it is a DoRA, and its settings.
ADAPTERS: Final[dict[str, tuple[str, int, bool, dict[str, Any]]]] = {
    "lora": (
        "LoRA on two layers and on the embedding, as mlx-lm trains it",
        2,
        False,
        {
            "rank": 4,
            "scale": 20.0,
            "dropout": 0.0,
            "keys": ["self_attn.q_proj", "mlp.down_proj", "model.embed_tokens"],
        },
    ),
    "dora": (
        "DoRA on every linear layer of the last layer",
        1,
        True,
        {"rank": 2, "scale": 10.0, "dropout": 0.0},
    ),
}


def main() -> None:
    """Make all adapters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FIXTURES / "mlx")
    folder = parser.parse_args().folder
    for seed, name in enumerate(ADAPTERS):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        make(name, folder / name, seed)


def make(name: str, folder: Path, seed: int) -> None:
    """Make one adapter, and what is said of it."""
    shows, layers, is_dora, parameters = ADAPTERS[name]
    mx.random.seed(seed)
    model, _ = load_model(FIXTURES / BASE)
    before = dict(tree_flatten(model.parameters()))
    model.freeze()
    linear_to_lora_layers(model, layers, parameters, use_dora=is_dora)
    # Factors begin as zeros, and magnitudes as the norms of the weights.
    found = tree_flatten(model.trainable_parameters())
    drawn = {key: t + 0.02 * mx.random.normal(t.shape) for key, t in found}
    model.load_weights(list(drawn.items()), strict=False)
    file = folder / "adapters.safetensors"
    mx.save_safetensors(str(file), drawn)
    config = {
        "fine_tune_type": "dora" if is_dora else "lora",
        "lora_parameters": parameters,
        "model": BASE,
        "num_layers": layers,
    }
    write(folder / "adapter_config.json", config)
    modules = [(key, m.fuse()) for key, m in model.named_modules() if hasattr(m, "fuse")]
    model.update_modules(tree_unflatten(modules))
    after = dict(tree_flatten(model.parameters()))
    norms = {k: norm(after[k] - before[k]) for k in before if mx.any(after[k] != before[k]).item()}
    expected = {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "tensors": len(drawn),
        "merged_change_norms": norms,
    }
    write(folder / "expected.json", expected)
    source = {
        "made_by": "scripts/make_mlx_fixtures.py",
        "versions": {name: version(name) for name in ("mlx", "mlx-lm")},
        "base": BASE,
        "seed": seed,
        "shows": shows,
    }
    write(folder / "SOURCE.json", source)


def norm(difference: mx.array) -> float:
    """The Frobenius norm, with squares and their sum in float64."""
    with mx.stream(mx.cpu):
        result: float = mx.sqrt(mx.sum(mx.square(difference.astype(mx.float64)))).item()
    return result


def write(path: Path, content: object) -> None:
    """Write JSON as the other fixtures have it."""
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
