"""Merges and written adapters compared with mlx-lm: its own fuse, and its strict loader.

mlx-lm is a test extra on Linux, where MLX computes on the CPU; elsewhere these tests are skipped.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import loratools
from loratools.files.writing import write_adapter
from tests.oracles import oracle

# Some of it has types and calls what has none, so all of it is taken as untyped.
mx: Any = oracle("mlx.core")
mlx_utils: Any = oracle("mlx.utils")
llama: Any = oracle("mlx_lm.models.llama")
mixtral: Any = oracle("mlx_lm.models.mixtral")
tuner: Any = oracle("mlx_lm.tuner.utils")

pytestmark = pytest.mark.oracle

FIXTURES = Path(__file__).parents[2] / "fixtures"
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 40,
    "tie_word_embeddings": False,
}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2}
TOKENS = [[3, 1, 4, 1, 5, 9, 2, 6]]


def tiny_llama() -> Any:
    return llama.Model(llama.ModelArgs.from_dict(LLAMA))


def tiny_mixtral() -> Any:
    return mixtral.Model(mixtral.ModelArgs.from_dict(MIXTRAL))


@dataclass(frozen=True)
class Training:
    """A model, and how mlx-lm adapts it."""

    make: Callable[[], Any]
    layers: int = 2
    dora: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        settings = {"rank": 3, "scale": 2.5, "dropout": 0.0, **self.parameters}
        kind = "dora" if self.dora else "lora"
        return {"fine_tune_type": kind, "num_layers": self.layers, "lora_parameters": settings}


TRAININGS = {
    "linear": Training(tiny_llama),
    "all-layers-by-keys": Training(
        tiny_llama, -1, parameters={"keys": ["self_attn.q_proj", "mlp.down_proj", "lm_head"]}
    ),
    "embedding": Training(tiny_llama, parameters={"keys": ["model.embed_tokens", "mlp.up_proj"]}),
    "dora": Training(tiny_llama, dora=True),
    "dora-embedding": Training(tiny_llama, 1, True, {"keys": ["model.embed_tokens"]}),
    "experts": Training(tiny_mixtral),
}
each_training = pytest.mark.parametrize("name", TRAININGS)


def parameters(model: Any) -> dict[str, Any]:
    return dict(mlx_utils.tree_flatten(model.parameters()))


def trained(training: Training, folder: Path) -> None:
    """Save a model of random numbers as `base`, and an adapter of it as mlx-lm saves one."""
    mx.random.seed(7)
    model = training.make()
    (folder / "adapter").mkdir(parents=True)
    mx.save_safetensors(str(folder / "base.safetensors"), parameters(model))
    config = training.config
    model.freeze()
    tuner.linear_to_lora_layers(
        model, config["num_layers"], config["lora_parameters"], use_dora=training.dora
    )
    # Factors begin as zeros, and magnitudes as the norms of the weights.
    found = mlx_utils.tree_flatten(model.trainable_parameters())
    drawn = [(name, tensor + 0.3 * mx.random.normal(tensor.shape)) for name, tensor in found]
    mx.save_safetensors(str(folder / "adapter" / "adapters.safetensors"), dict(drawn))
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))


def based(training: Training, base: Path) -> Any:
    model = training.make()
    model.load_weights(str(base))
    return model


def fused(training: Training, base: Path, adapter: Path) -> tuple[dict[str, Tensor], Any]:
    """The weights that mlx-lm fuses of a base and an adapter, and the output of both unfused."""
    model = tuner.load_adapters(based(training, base), str(adapter))
    output = model(mx.array(TOKENS))
    modules = [(name, m.fuse()) for name, m in model.named_modules() if hasattr(m, "fuse")]
    model.update_modules(mlx_utils.tree_unflatten(modules))
    return {k: torch.from_numpy(np.array(v)) for k, v in parameters(model).items()}, output


def assert_merged(training: Training, folder: Path, adapter: Path, scales: Iterator[float]) -> None:
    """Compare a merge with mlx-lm's own, and what both models compute.

    `scales` are the largest factors of any number in an update, for the rounding error of float32.
    """
    base = folder / "base.safetensors"
    merged = folder / f"{adapter.name}-merged.safetensors"
    loratools.merge(base, adapter, output=merged)
    expected, output = fused(training, base, adapter)
    found, before = load_file(merged), load_file(base)
    assert found.keys() == expected.keys()
    eps, size = torch.finfo(torch.float32).eps, max(scales)
    changed = 0
    for name, tensor in found.items():
        changed += not torch.equal(tensor, before[name])
        # float32 rounds each product and each sum of the few that make up a number.
        allowed = 16 * eps * (before[name].abs().max().item() + size)
        torch.testing.assert_close(tensor, expected[name], rtol=16 * eps, atol=allowed)
    assert changed
    plain = based(training, base)(mx.array(TOKENS))
    ours = based(training, merged)(mx.array(TOKENS))
    effect = mx.abs(output - plain).max().item()
    assert mx.abs(ours - output).max().item() < effect / 2**10


def sizes(adapter: Path) -> Iterator[float]:
    """An upper limit of the numbers in each update: scale * rank * largest product."""
    for update in loratools.open_adapter(adapter).updates.values():
        tensors = [source.read().double().abs().max().item() for source in update.delta.sources]
        assert update.delta.scaling is not None
        yield abs(update.delta.scaling.value) * 4 * tensors[0] * tensors[1]


@each_training
def test_merge_is_what_mlx_fuses(name: str, tmp_path: Path) -> None:
    training = TRAININGS[name]
    trained(training, tmp_path)
    adapter = tmp_path / "adapter"
    assert_merged(training, tmp_path, adapter, sizes(adapter))


@each_training
def test_written_adapter_is_loaded_by_the_strict_loader(name: str, tmp_path: Path) -> None:
    """Also one whose updates have different scales, which become one."""
    training = TRAININGS[name]
    trained(training, tmp_path)
    again = tmp_path / "again"
    write_adapter(loratools.open_adapter(tmp_path / "adapter"), again, inputs=[])
    read, written = (load_file(tmp_path / n / "adapters.safetensors") for n in ("adapter", "again"))
    assert all(torch.equal(written[key], tensor) for key, tensor in read.items())
    assert_merged(training, tmp_path, again, sizes(again))
    if training.dora:
        return
    other = tmp_path / "other"
    rescaling = loratools.Rescaling(
        strength=0.5, where=[("*.layers.*", 3.0), ("*.layers.2.*", 0.25)]
    )
    loratools.rescale(again, output=other, rescaling=rescaling)
    assert_merged(training, tmp_path, other, sizes(other))


@pytest.mark.parametrize("name", ["combine-r4", "plain", "rslora-patterns"])
def test_peft_adapter_in_mlx_format_does_the_same(name: str, tmp_path: Path) -> None:
    from mlx_lm.utils import load_model

    adapter, base = FIXTURES / "adapters" / name, FIXTURES / "stories260k"
    loratools.convert(adapter, output=tmp_path / "mlx", to="mlx")
    merged = tmp_path / "merged"
    loratools.merge(base, adapter, output=merged)
    plain, ours = (load_model(folder)[0](mx.array(TOKENS)) for folder in (base, merged))
    theirs = tuner.load_adapters(load_model(base)[0], str(tmp_path / "mlx"))(mx.array(TOKENS))
    effect = mx.abs(theirs - plain).max().item()
    assert mx.abs(ours - theirs).max().item() < effect / 2**10


def test_archive_of_mlx_is_read_in_every_dtype(tmp_path: Path) -> None:
    numbers = mx.random.normal((3, 4))
    arrays = {
        "model.q.lora_a": numbers.astype(mx.bfloat16),
        "model.q.lora_b": mx.random.normal((5, 4)).astype(mx.float16).T,
    }
    mx.savez(str(tmp_path / "adapters.npz"), **arrays)
    adapter = loratools.open_adapter(tmp_path / "adapters.npz", dialect_options={"scale": "2"})
    (update,) = adapter.updates.values()
    lora = update.delta.low_rank
    assert lora is not None
    assert (lora.up.dtype, lora.down.dtype) == ("F16", "BF16")
    a, b = (torch.from_numpy(np.array(array.astype(mx.float32))) for array in arrays.values())
    assert torch.equal(lora.down.read().float(), a.T)
    assert torch.equal(lora.up.read().float(), b.T)
