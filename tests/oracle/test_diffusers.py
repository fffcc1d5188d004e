"""Adapters that diffusers saves and loads: what it makes of the models, and what we compute.

Weights and factors are small integers and scalings are powers of two, so that all sums are exact
and weights can be compared bit for bit.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.oracles import WARNED, oracle

oracle("peft")
oracle("diffusers")

from diffusers.training_utils import _collate_lora_metadata  # noqa: E402
from diffusers.utils import logging  # noqa: E402
from peft import LoraConfig, get_peft_model_state_dict  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

import loratools  # noqa: E402
from loratools import Rescaling  # noqa: E402
from loratools.files.writing import write_adapter  # noqa: E402
from tests.adapters import effects  # noqa: E402
from tests.oracle._pipelines import PIPELINES, components, fill, pipeline, weights  # noqa: E402

UNMATCHED = pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")
pytestmark = [pytest.mark.oracle, *WARNED, UNMATCHED]

FILE = "pytorch_lora_weights.safetensors"
#: Patterns with ranks and alphas of their own, and a scaling by the root of the rank.
DENOISER = {
    "r": 4,
    "lora_alpha": 2,
    "target_modules": ["to_q", "to_k", "to_out.0", "conv1", "proj_out", "add_k_proj"],
    "rank_pattern": {"to_k": 2, "conv1": 8},
    "alpha_pattern": {"to_q": 8},
}
TEXT = {
    "r": 4,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "fc1"],
    "use_rslora": True,
    "alpha_pattern": {"layers.1.mlp.fc1": 8},
}
each_pipeline = pytest.mark.parametrize("name", PIPELINES)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def trained(name: str, **fields: Any) -> Any:
    """A pipeline whose components each have an adapter of PEFT, with factors of small integers."""
    made = pipeline(name)
    random = torch.Generator().manual_seed(2)
    for component, model in components(made).items():
        config = TEXT if component.startswith("text_encoder") else DENOISER
        model.add_adapter(LoraConfig(**{**config, **fields}))
        fill((p for n, p in model.named_parameters() if "lora_" in n), random)
    return made


def save(made: Any, folder: Path, *, metadata: bool) -> Path:
    """Save the adapters of all components as the training scripts of diffusers do."""
    models = components(made)
    layers = {
        f"{name}_lora_layers": get_peft_model_state_dict(model) for name, model in models.items()
    }
    made.save_lora_weights(folder, **layers, **(_collate_lora_metadata(models) if metadata else {}))
    return folder


def fused(name: str, source: Path | dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a pipeline with an adapter that diffusers has loaded and merged into them."""
    made = pipeline(name)
    made.load_lora_weights(source)
    loaded = [component for component, model in components(made).items() if has_adapter(model)]
    made.fuse_lora(components=loaded)
    made.unload_lora_weights()
    return weights(made)


def has_adapter(model: Any) -> bool:
    return any("lora_" in name for name, _ in model.named_parameters())


def with_effects(name: str, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a pipeline with changes, by target, that are added in float64."""
    found = weights(pipeline(name))
    for target, change in changes.items():
        found[target] = (found[target].double() + change.reshape(found[target].shape)).float()
    return found


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []


def header_and_data(path: Path) -> tuple[Any, bytes]:
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:begin]), content[begin:]


@each_pipeline
@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "no-metadata"])
def test_update_is_what_diffusers_adds(name: str, metadata: bool, tmp_path: Path) -> None:
    path = save(trained(name), tmp_path / "in", metadata=metadata)
    adapter = loratools.open_adapter(path)
    expected = fused(name, path)
    assert_equal(with_effects(name, effects(adapter)), expected)
    changed = [n for n, t in weights(pipeline(name)).items() if not torch.equal(t, expected[n])]
    assert sorted(changed) == sorted(adapter.updates)
    assert {target.partition(".")[0] for target in adapter.updates} == {*components(pipeline(name))}


@each_pipeline
@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "no-metadata"])
def test_what_is_rescaled_and_written_is_loaded_by_diffusers_as_it_is_meant(
    name: str, metadata: bool, tmp_path: Path
) -> None:
    path = save(trained(name), tmp_path / "in", metadata=metadata)
    before = effects(loratools.open_adapter(path))
    rescaling = Rescaling(strength=2.0, where=[("*.to_k.weight", 0.5), ("*.fc1.weight", 4.0)])
    loratools.rescale(path, output=tmp_path / "out", rescaling=rescaling)
    strengths = {"to_k": 1, "fc1": 8}
    changes = {
        target: change * strengths.get(target.split(".")[-2], 2)
        for target, change in before.items()
    }
    assert_equal(fused(name, tmp_path / "out"), with_effects(name, changes))


@each_pipeline
@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "no-metadata"])
def test_unchanged_file_is_written_bit_for_bit(name: str, metadata: bool, tmp_path: Path) -> None:
    path = save(trained(name), tmp_path / "in", metadata=metadata)
    write_adapter(loratools.open_adapter(path), tmp_path / "out", inputs=[])
    # The safetensors library writes the entries of the metadata in a random order.
    assert header_and_data(tmp_path / "out" / FILE) == header_and_data(path / FILE)
