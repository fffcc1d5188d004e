"""Adapters that diffusers saves and loads: what it makes of the models, and what we compute.

Weights and factors are small integers and scalings are powers of two, so that all sums are exact
and weights can be compared bit for bit.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
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
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

import loratools  # noqa: E402
from loratools import Rescaling  # noqa: E402
from loratools.files.writing import write_adapter  # noqa: E402
from tests.adapters import effects  # noqa: E402
from tests.narrowing import present  # noqa: E402
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


@cache
def initial(name: str) -> Mapping[str, Tensor]:
    """The weights of a pipeline without an adapter."""
    return weights(pipeline(name))


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
    found = dict(initial(name))
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
    changed = [n for n, t in initial(name).items() if not torch.equal(t, expected[n])]
    assert sorted(changed) == sorted(adapter.updates)
    assert {target.partition(".")[0] for target in adapter.updates} == {
        key.partition(".")[0] for key in initial(name)
    }


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


# kohya's spelling, through the converter of diffusers


def kohyas(name: str, alphas: Sequence[float]) -> dict[str, Tensor]:
    """A kohya file for a pipeline's attentions; the modules have these alphas in turn."""
    random = torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {}
    layers = tuple(f".{layer}.weight" for layer in (*LAYERS, "fc1"))
    found = {t: weight for t, weight in initial(name).items() if t.endswith(layers)}
    for number, (target, weight) in enumerate(found.items()):
        module, rank = kohya_name(name, target), 2 if target.endswith("q.weight") else 4
        above, below = weight.shape
        tensors[f"{module}.alpha"] = torch.tensor(alphas[number % len(alphas)])
        for part, shape in (("down", (rank, below)), ("up", (above, rank))):
            values = torch.randint(-2, 3, shape, generator=random)
            tensors[f"{module}.lora_{part}.weight"] = values.float()
    return tensors


def kohya_name(name: str, target: str) -> str:
    """kohya's name of the module that has a weight."""
    component, _, path = target.removesuffix(".weight").partition(".")
    encoders = {
        "SD1": {"text_encoder": "te"},
        "SDXL": {"text_encoder": "te1", "text_encoder_2": "te2"},
    }
    prefix = encoders[name].get(component)
    if prefix is None:
        return f"lora_unet_{path.replace('.', '_')}"
    # In transformers 4, a text encoder is inside of another module.
    inner = path.removeprefix("text_model.").replace(".", "_")
    return f"lora_{prefix}_text_model_{inner}"


@pytest.mark.parametrize("name", ["SD1", "SDXL"])
def test_update_of_a_kohya_file_is_what_diffusers_makes_of_it(name: str, tmp_path: Path) -> None:
    changes = kohya_changes(name, [2.0], tmp_path)
    assert {target.partition(".")[0] for target in changes} == {
        key.partition(".")[0] for key in initial(name)
    }
    assert_equal(fused(name, tmp_path / "kohya.safetensors"), with_effects(name, changes))
    assert not loratools.inspect(tmp_path / "kohya.safetensors").notes


def test_alphas_that_differ_between_modules_are_lost_in_the_conversion_of_diffusers(
    tmp_path: Path,
) -> None:
    """It gives all modules of a component the most common alpha of that component."""
    changes = kohya_changes("SDXL", [2.0, 2.0, 8.0], tmp_path)
    (note,) = loratools.inspect(tmp_path / "kohya.safetensors").notes
    assert note.trap == "several-alphas"
    found = initial("SDXL")
    theirs = fused("SDXL", tmp_path / "kohya.safetensors")
    made = {target: theirs[target].double() - found[target].double() for target in changes}
    common = kohya_changes("SDXL", [2.0], tmp_path)
    assert [target for target in made if not torch.equal(made[target], common[target])] == []
    wrong = [target for target in made if not torch.equal(made[target], changes[target])]
    assert len(wrong) == len(changes) // 3


def kohya_changes(name: str, alphas: Sequence[float], folder: Path) -> dict[str, Tensor]:
    """Save a kohya file, and return what we read from it, by the targets of the pipeline."""
    save_file(kohyas(name, alphas), folder / "kohya.safetensors")
    found = effects(loratools.open_adapter(folder / "kohya.safetensors"))
    flattened = {f"{kohya_name(name, target)}.weight": target for target in initial(name)}
    return {flattened[target]: change for target, change in found.items()}


# Spellings of older versions


def test_spellings_of_older_versions_mean_what_diffusers_takes_them_for(tmp_path: Path) -> None:
    path = save(
        trained("SD1", target_modules=LAYERS, rank_pattern={}), tmp_path / "in", metadata=False
    )
    new = load_file(path / FILE)
    expected = fused("SD1", path)
    for number, spell in enumerate((in_processors, as_layers)):
        old = {spell(key): tensor for key, tensor in new.items()}
        assert not old.keys() & new.keys()
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(old, folder / FILE)
        assert_equal(fused("SD1", folder), expected)
        found = effects(loratools.open_adapter(folder))
        assert_equal(with_effects("SD1", found), expected)


#: The layers of attentions, which alone diffusers trained at first.
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj"]
FACTORS = {"lora_A": "down", "lora_B": "up"}


def parted(key: str) -> tuple[str, str, str]:
    module, factor, _ = key.rsplit(".", 2)
    owner, _, layer = module.removesuffix(".0").rpartition(".")
    return owner, layer, FACTORS[factor]


def in_processors(key: str) -> str:
    """The name of a tensor in an attention processor."""
    owner, layer, factor = parted(key)
    if not key.startswith("text_encoder."):
        return f"{owner}.processor.{layer}_lora.{factor}.weight"
    return f"{owner}.to_{layer.removesuffix('_proj')}_lora.{factor}.weight"


def as_layers(key: str) -> str:
    """The name of a tensor in a layer of the time before PEFT."""
    module, factor, _ = key.rsplit(".", 2)
    between = "lora_linear_layer" if key.startswith("text_encoder.") else "lora"
    return f"{module}.{between}.{FACTORS[factor]}.weight"


def test_attention_processors_of_a_unet_alone_are_those_of_its_component(tmp_path: Path) -> None:
    path = save(
        trained("SD1", target_modules=LAYERS, rank_pattern={}), tmp_path / "in", metadata=False
    )
    new = {k: t for k, t in load_file(path / FILE).items() if k.startswith("unet.")}
    save_file({in_processors(k).removeprefix("unet."): t for k, t in new.items()}, tmp_path / FILE)
    made = pipeline("SD1")
    made.unet.load_lora_adapter(load_file(tmp_path / FILE), prefix=None)
    made.unet.fuse_lora()
    made.unet.unload_lora()
    found = effects(loratools.open_adapter(tmp_path / FILE))
    assert_equal(with_effects("SD1", found), weights(made))


# DoRA


@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "no-metadata"])
def test_dora_is_loaded_with_the_same_effect_when_its_scaling_is_stored_in_another_way(
    metadata: bool, tmp_path: Path
) -> None:
    path = save(
        trained("Flux", use_dora=True, use_rslora=False), tmp_path / "in", metadata=metadata
    )
    assert loratools.open_adapter(path).kinds == ("DoRA",)
    folded = Rescaling(fold=True)
    loratools.rescale(path, output=tmp_path / "out", rescaling=folded)
    assert_equal(fused("Flux", tmp_path / "out"), fused("Flux", path))
    scalings = {
        present(u.delta.scaling).value for u in loratools.open_adapter(path).updates.values()
    }
    assert (scalings != {1.0}) is metadata


# Where diffusers differs in silence


def fields_in(path: Path) -> Any:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["lora_adapter_metadata"])


def resaved(path: Path, folder: Path, tensors: Mapping[str, Tensor], fields: Any) -> Path:
    folder.mkdir()
    metadata = {} if fields is None else {"lora_adapter_metadata": json.dumps(fields)}
    save_file(dict(tensors), folder / FILE, metadata)
    return folder


def test_metadata_counts_and_not_the_tensors(tmp_path: Path) -> None:
    path = save(trained("SD3"), tmp_path / "in", metadata=True) / FILE
    fields, tensors = fields_in(path), load_file(path)
    louder = resaved(path, tmp_path / "louder", tensors, {**fields, "transformer.lora_alpha": 8})
    expected = with_effects("SD3", effects(loratools.open_adapter(louder)))
    assert_equal(fused("SD3", louder), expected)
    unknown = resaved(path, tmp_path / "unknown", tensors, {**fields, "transformer.tomorrow": 1})
    with pytest.raises(TypeError):
        fused("SD3", unknown)
    write_adapter(loratools.open_adapter(unknown), tmp_path / "kept", inputs=[])
    assert fields_in(tmp_path / "kept" / FILE)["transformer.tomorrow"] == 1


def with_alphas(path: Path, folder: Path, alpha: float) -> Path:
    """A file without metadata, with an alpha as a tensor beside all factors."""
    tensors = load_file(path / FILE)
    alphas = {
        key.replace(".lora_A.weight", ".alpha"): torch.tensor(alpha)
        for key in tensors
        if key.endswith(".lora_A.weight")
    }
    return resaved(path, folder, tensors | alphas, None)


@pytest.mark.parametrize("name", ["SD1", "SDXL", "SD3"])
def test_alpha_that_is_a_tensor_makes_diffusers_refuse_a_file_until_it_is_in_the_metadata(
    name: str, tmp_path: Path
) -> None:
    path = save(trained(name, rank_pattern={}), tmp_path / "in", metadata=False)
    adapter = with_alphas(path, tmp_path / "alphas", 8.0)
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        fused(name, adapter)
    found = loratools.open_adapter(adapter)
    assert {present(update.delta.scaling).value for update in found.updates.values()} == {2.0}
    write_adapter(found, tmp_path / "out", inputs=[])
    assert_equal(fused(name, tmp_path / "out"), with_effects(name, effects(found)))


def test_alpha_that_is_a_tensor_counts_for_flux(tmp_path: Path) -> None:
    path = save(trained("Flux", rank_pattern={}), tmp_path / "in", metadata=False)
    adapter = with_alphas(path, tmp_path / "alphas", 8.0)
    expected = with_effects("Flux", effects(loratools.open_adapter(adapter)))
    assert_equal(fused("Flux", adapter), expected)


def test_alpha_that_is_a_tensor_is_dropped_where_a_model_loads_its_adapter(tmp_path: Path) -> None:
    path = save(trained("SD3"), tmp_path / "in", metadata=False)
    tensors = load_file(with_alphas(path, tmp_path / "alphas", 8.0) / FILE)
    model = pipeline("SD3").transformer
    model.load_lora_adapter(tensors, prefix="transformer")
    assert {s for m in model.modules() for s in getattr(m, "scaling", {}).values()} == {1.0}


def test_component_without_target_modules_in_the_metadata_is_not_loaded_by_diffusers(
    tmp_path: Path,
) -> None:
    path = save(trained("SD1"), tmp_path / "in", metadata=True)
    fields = fields_in(path / FILE)
    without = {name: value for name, value in fields.items() if name != "unet.target_modules"}
    folder = resaved(path, tmp_path / "without", load_file(path / FILE), without)
    with pytest.raises(KeyError):
        fused("SD1", folder)
    adapter = loratools.open_adapter(folder)
    assert any("no target_modules" in note.message for note in adapter.notes)
    write_adapter(adapter, tmp_path / "out", inputs=[])
    assert_equal(fused("SD1", tmp_path / "out"), fused("SD1", path))


@pytest.mark.parametrize("name", ["SD1", "SDXL", "SD3", "Flux"])
def test_names_of_text_encoders_from_before_transformers_5_are_written_so_that_they_are_found(
    name: str, tmp_path: Path
) -> None:
    path = save(trained(name), tmp_path / "in", metadata=False)
    encoder = re.compile(r"^(text_encoder(_2)?\.)(text_model\.)?")
    tensors = {encoder.sub(r"\1text_model.", k): t for k, t in load_file(path / FILE).items()}
    old = resaved(path, tmp_path / "old", tensors, None)
    loratools.rescale(old, output=tmp_path / "out", rescaling=Rescaling(strength=2.0))
    changes = {t: 2 * c for t, c in effects(loratools.open_adapter(path)).items()}
    assert_equal(fused(name, tmp_path / "out"), with_effects(name, changes))


def test_magnitudes_in_kohyas_spelling_are_left_out_by_diffusers(tmp_path: Path) -> None:
    tensors = kohyas("SD1", [2.0])
    ups = {key: up for key, up in tensors.items() if key.endswith("lora_up.weight")}
    magnitudes = {
        key.replace("lora_up.weight", "dora_scale"): torch.ones(up.shape[0], 1)
        for key, up in ups.items()
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    save_file(tensors | magnitudes, tmp_path / "dora.safetensors")
    expected = fused("SD1", tmp_path / "lora.safetensors")
    assert_equal(fused("SD1", tmp_path / "dora.safetensors"), expected)
    assert loratools.open_adapter(tmp_path / "dora.safetensors").kinds == ("DoRA",)
