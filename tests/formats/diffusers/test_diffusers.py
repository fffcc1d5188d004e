"""What diffusers' files mean, what is refused by name, and that they are written as they were."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import loratools
from loratools.adapter import Adapter
from loratools.deltas import keys_of
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.deltas.kasa import KaSA
from loratools.deltas.lora import LoRA, Rule, Scaling
from loratools.errors import LoratoolsError, UnsupportedError
from loratools.files.writing import write_adapter
from loratools.formats import Sureness, decode, encode
from loratools.formats.diffusers.read import claim
from loratools.io.bundle import Bundle
from loratools.io.source import Held
from loratools.parts import Update
from tests.adapters import assert_same, effects
from tests.narrowing import present

UNET = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "unet.down_blocks.0.resnets.0.conv1"
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
LAYER = "text_encoder.text_model.encoder.layers.0.self_attn"
A, B = "lora_A.weight", "lora_B.weight"

#: The fewest fields with which diffusers loads a file.
STATED = {"unet.r": 2, "unet.lora_alpha": 2, "unet.target_modules": ["to_q"]}

HELD = Held("vector", torch.ones(2), "F32")
LORA = LoRA(Held("up", torch.ones(2, 1), "F32"), Held("down", torch.ones(1, 2), "F32"),
            Scaling(1, 1, "rank", "config"), (2, 2))  # fmt: skip
KASA = KaSA(LORA, Held("diagonal", torch.ones(1), "F32"))


def module(
    name: str = UNET,
    shape: tuple[int, ...] = (4, 3),
    rank: int = 2,
    ends: tuple[str, str] = (f".{A}", f".{B}"),
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """The factors of a module."""
    random = torch.Generator().manual_seed(sum(shape) + rank)
    kernel = (1,) * (len(shape) - 2)
    down = torch.randn(rank, *shape[1:], generator=random).to(dtype)
    up = torch.randn(shape[0], rank, *kernel, generator=random).to(dtype)
    return {f"{name}{ends[0]}": down, f"{name}{ends[1]}": up}


def bundle(
    tensors: Mapping[str, Tensor],
    fields: object = None,
    config: Mapping[str, Any] | None = None,
) -> Bundle:
    held = {key: Held(key, tensor, NAMES[tensor.dtype]) for key, tensor in tensors.items()}
    return Bundle("here", held, metadata_of(fields), config, (), 0)


def metadata_of(fields: object) -> dict[str, str]:
    """The metadata of a file, in the text that diffusers writes; without fields where None."""
    text = {} if fields is None else {"lora_adapter_metadata": as_text(fields)}
    return {"format": "pt", **text}


def as_text(fields: object) -> str:
    return fields if isinstance(fields, str) else json.dumps(fields, indent=2, sort_keys=True)


def decoded(tensors: Mapping[str, Tensor], fields: object = None) -> Adapter:
    return decode(bundle(tensors, fields))


def lora_of(adapter: Adapter, name: str = UNET) -> LoRA:
    return present(adapter.updates[f"{name}.weight"].delta.low_rank)


def scalings(adapter: Adapter) -> list[float]:
    return [present(update.delta.scaling).value for update in adapter.updates.values()]


def notes(adapter: Adapter, severity: str) -> list[str]:
    return [note.message for note in adapter.notes if note.severity == severity]


def written(adapter: Adapter, path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of the file that an adapter is written to, and the fields in its metadata."""
    write_adapter(adapter, path, inputs=[])
    file = path if path.is_file() else path / "pytorch_lora_weights.safetensors"
    with safe_open(file, "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        text = (opened.metadata() or {}).get("lora_adapter_metadata")
    return tensors, None if text is None else json.loads(text)


# What a file means


def test_target_begins_with_its_component_and_update_is_the_product_of_the_factors() -> None:
    tensors = module() | module(TEXT, shape=(5, 5), rank=3)
    adapter = decoded(tensors)
    assert list(adapter.updates) == [f"{UNET}.weight", f"{TEXT}.weight"]
    for name in (UNET, TEXT):
        expected = tensors[f"{name}.{B}"].double() @ tensors[f"{name}.{A}"].double()
        torch.testing.assert_close(effects(adapter)[f"{name}.weight"], expected, rtol=0, atol=0)
        scaling = lora_of(adapter, name).scaling
        assert (scaling.value, scaling.origin) == (1, "assumed")


@pytest.mark.parametrize(
    "component",
    ["unet", "prior", "transformer", "transformer_2", "text_encoder", "text_encoder_2",
     "text_encoder_3"],
)  # fmt: skip
def test_every_component_of_a_pipeline_is_one(component: str) -> None:
    name = f"{component}.blocks.0.attn1.to_q"
    assert claim(bundle(module(name))) is Sureness.KEYS
    assert list(decoded(module(name)).updates) == [f"{name}.weight"]


@pytest.mark.parametrize(
    ("stored", "ends", "target"),
    [
        (UNET, (".lora_A.default.weight", ".lora_B.default.weight"), UNET),
        (UNET, (".lora_A", ".lora_B"), UNET),
        (UNET.replace("unet.", "unet.base_model.model."), (f".{A}", f".{B}"), UNET),
        (UNET, (".lora.down.weight", ".lora.up.weight"), UNET),
        (f"unet.{BLOCK}.to_out.0", (".lora.down.weight", ".lora.up.weight"),
         f"unet.{BLOCK}.to_out.0"),
        (f"unet.{BLOCK}.processor.to_q", ("_lora.down.weight", "_lora.up.weight"), UNET),
        (f"unet.{BLOCK}.processor.to_out", ("_lora.down.weight", "_lora.up.weight"),
         f"unet.{BLOCK}.to_out.0"),
        (f"{BLOCK}.processor.to_q", ("_lora.down.weight", "_lora.up.weight"), UNET),
        (f"{BLOCK}.processor.to_out", ("_lora.down.weight", "_lora.up.weight"),
         f"unet.{BLOCK}.to_out.0"),
        (TEXT, (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"), TEXT),
        (f"{LAYER}.to_q", ("_lora.down.weight", "_lora.up.weight"), TEXT),
        (f"{LAYER}.to_out", ("_lora.down.weight", "_lora.up.weight"), f"{LAYER}.out_proj"),
    ],
)  # fmt: skip
def test_spellings_of_all_times_mean_the_same_and_are_written_as_today(
    stored: str, ends: tuple[str, str], target: str, tmp_path: Path
) -> None:
    tensors = module(stored, ends=ends)
    assert claim(bundle(tensors)) is Sureness.KEYS
    adapter = decoded(tensors)
    assert list(adapter.updates) == [f"{target}.weight"]
    again, fields = written(adapter, tmp_path / "out")
    assert list(again) == [f"{target}.{A}", f"{target}.{B}"]
    assert all(map(torch.equal, again.values(), tensors.values()))
    assert fields is None
    (note,) = [text for text in notes(adapter, "info") if "today's diffusers" in text]
    assert note.endswith(f"{stored}{ends[0]} as {target}.{A}")


def test_file_of_one_model_has_no_component_in_its_keys_or_its_metadata(tmp_path: Path) -> None:
    tensors, fields = module("blocks.0.to_q"), {"r": 2, "lora_alpha": 6}
    adapter = decoded(tensors, fields)
    assert list(adapter.updates) == ["blocks.0.to_q.weight"]
    assert scalings(adapter) == [3]
    again, after = written(adapter, tmp_path / "out")
    assert list(again) == list(tensors)
    assert present(after)["lora_alpha"] == 6


@pytest.mark.parametrize(
    "name", ["model.layers.0.q_proj", "transformer.h.0.attn.c_attn", "diffusion_model.blocks.0.q"]
)
def test_factors_in_no_component_are_not_claimed(name: str) -> None:
    assert claim(bundle(module(name))) is Sureness.NO


def test_part_of_another_kind_is_refused_by_name() -> None:
    tensors = {**module(), "unet.mid_block.to_q.lokr_w1": torch.ones(2, 2)}
    with pytest.raises(UnsupportedError, match=r"unet\.mid_block\.to_q\.lokr_w1: LoKr"):
        decoded(tensors)


# Scaling


def test_metadata_gives_each_component_its_scaling() -> None:
    tensors = module(rank=2) | module(TEXT, rank=4) | module("text_encoder_2.fc1", rank=4)
    fields = {
        "unet.r": 2, "unet.lora_alpha": 4, "text_encoder.r": 4, "text_encoder.lora_alpha": 8,
        "text_encoder.use_rslora": True, "text_encoder_2.r": 4, "text_encoder_2.lora_alpha": 1,
    }  # fmt: skip
    adapter = decoded(tensors, fields)
    assert scalings(adapter) == [2, 8 / 2, 1 / 4]
    assert {present(u.delta.scaling).origin for u in adapter.updates.values()} == {"metadata"}
    assert adapter.kinds == ("LoRA", "rsLoRA")


def test_patterns_are_those_of_peft_within_the_component() -> None:
    names = ["unet.mid.proj", "unet.proj", "unet.mid.other", "text_encoder.proj"]
    tensors = {key: t for rank, n in zip((4, 2, 2, 2), names, strict=True)
               for key, t in module(n, rank=rank).items()}  # fmt: skip
    fields = {
        "unet.r": 2, "unet.lora_alpha": 2, "unet.rank_pattern": {"mid.proj": 4},
        "unet.alpha_pattern": {"^proj": 6}, "text_encoder.r": 2, "text_encoder.lora_alpha": 10,
    }  # fmt: skip
    adapter = decoded(tensors, fields)
    assert scalings(adapter) == [2 / 4, 6 / 2, 1, 5]
    origins = [present(u.delta.scaling).origin for u in adapter.updates.values()]
    assert origins == ["metadata", "alpha_pattern", "metadata", "metadata"]


def test_missing_field_has_pefts_default() -> None:
    assert scalings(decoded(module(rank=4), {"unet.r": 4})) == [8 / 4]
    assert scalings(decoded(module(rank=8), {"unet.lora_alpha": 4})) == [4 / 8]


def test_mixed_ranks_without_metadata_all_have_a_scaling_of_one() -> None:
    adapter = decoded(module(rank=2) | module(TEXT, rank=4) | module("unet.conv_in", rank=3))
    assert scalings(adapter) == [1, 1, 1]


def test_alpha_that_is_a_tensor_counts_and_is_written_to_the_metadata(tmp_path: Path) -> None:
    alpha = torch.tensor(0.1, dtype=torch.float16)
    tensors = module() | {f"{UNET}.alpha": alpha} | module("unet.conv_in")
    adapter = decoded(tensors)
    scaling = lora_of(adapter).scaling
    assert (scaling.alpha, scaling.origin) == (0.0999755859375, "tensor")
    used = [key for update in adapter.updates.values() for key in keys_of(update.delta)]
    assert sorted(used) == sorted(tensors)
    again, fields = written(adapter, tmp_path / "out")
    assert f"{UNET}.alpha" not in again
    after = decoded(again, fields)
    for each in (adapter, after):
        assert lora_of(each).scaling.value == 0.0999755859375 / 2
        assert lora_of(each, "unet.conv_in").scaling.value == 1


def test_alpha_beside_metadata_does_not_count(tmp_path: Path) -> None:
    for alpha, count in ((4.0, 0), (3.0, 1)):
        tensors = module() | {f"{UNET}.alpha": torch.tensor(alpha)}
        adapter = decoded(tensors, {**STATED, "unet.lora_alpha": 4})
        assert scalings(adapter) == [2]
        assert adapter.inert == {f"{UNET}.alpha": "the metadata says the alpha"}
        assert len(notes(adapter, "problem")) == count


def test_file_without_metadata_gets_only_what_diffusers_would_have_found_out(
    tmp_path: Path,
) -> None:
    tensors = module() | module(TEXT, rank=3) | module("text_encoder.fc1", rank=4)
    save_file(tensors, tmp_path / "in.safetensors")
    loratools.rescale(
        tmp_path / "in.safetensors",
        output=tmp_path / "out.safetensors",
        rescaling=loratools.Rescaling(strength=2),
    )
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        fields = json.loads(file.metadata()["lora_adapter_metadata"])
    assert {n.removeprefix("unet."): v for n, v in fields.items() if n.startswith("unet.")} == {
        "r": 2,
        "lora_alpha": 4,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": [UNET.removeprefix("unet.")],
        "use_dora": False,
        "lora_bias": False,
        "use_rslora": False,
    }
    ranks = {fields["text_encoder.r"], *fields["text_encoder.rank_pattern"].values()}
    assert ranks == {3, 4}
    assert scalings(loratools.open_adapter(tmp_path / "out.safetensors")) == [2, 2, 2]


def test_changed_metadata_keeps_what_is_not_known_and_what_is_still_true(tmp_path: Path) -> None:
    fields = {**STATED, "unet.tomorrow": {"b": 1, "a": 2}, "unet.lora_dropout": 0.1}
    adapter = decoded(module(), fields)
    update = adapter.updates[f"{UNET}.weight"]
    louder = replace(adapter, updates={f"{UNET}.weight": Update(update.delta.scaled(3.0))})
    assert written(louder, tmp_path / "out")[1] == {**fields, "unet.lora_alpha": 6}


def test_alpha_that_nothing_states_may_be_given() -> None:
    alpha = {f"{UNET}.alpha": torch.tensor(4.0)}
    adapter = decode(bundle(module() | alpha | module(TEXT)), {"alpha": "6"})
    assert scalings(adapter) == [2, 3]
    assert lora_of(adapter, TEXT).scaling.origin == "option"


# Kinds


def test_convolution_has_the_shape_of_its_weight(tmp_path: Path) -> None:
    tensors = module(CONV, shape=(4, 3, 3, 3))
    adapter = decoded(tensors)
    lora = lora_of(adapter, CONV)
    assert lora.shape == (4, 3, 3, 3)
    expected = tensors[f"{CONV}.{B}"].flatten(1).double() @ (
        tensors[f"{CONV}.{A}"].flatten(1).double()
    )
    assert torch.equal(lora.dense_rows(0, 4), expected)
    again, _ = written(adapter, tmp_path / "out")
    assert {key: t.shape for key, t in again.items()} == {k: t.shape for k, t in tensors.items()}


@pytest.mark.parametrize("fields", [None, {**STATED, "unet.use_dora": True}])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 3, 3)])
def test_dora_is_announced_by_the_metadata_or_by_its_magnitudes(
    fields: Any, shape: tuple[int, ...], tmp_path: Path
) -> None:
    size = (4,) if len(shape) == 2 else (1, 4, 1, 1)
    magnitude = torch.rand(size)
    tensors = module(shape=shape) | {f"{UNET}.lora_magnitude_vector": magnitude}
    adapter = decoded(tensors, fields)
    dora = adapter.updates[f"{UNET}.weight"].delta
    assert isinstance(dora, DoRA)
    assert torch.equal(dora.magnitude.read(), magnitude.flatten())
    assert not notes(adapter, "problem")
    again, after = written(adapter, tmp_path / "out")
    assert {key: tensor.tolist() for key, tensor in again.items()} == {
        key: tensor.tolist() for key, tensor in tensors.items()
    }
    assert after == fields


def test_bias_of_a_factor_changes_the_bias_of_its_module(tmp_path: Path) -> None:
    tensors = module() | {f"{UNET}.lora_B.bias": torch.randn(4)}
    adapter = decoded(tensors, {"unet.r": 2, "unet.lora_alpha": 4, "unet.lora_bias": True})
    assert list(adapter.updates) == [f"{UNET}.weight", f"{UNET}.bias"]
    assert scalings(adapter) == [2, 2]
    again, fields = written(adapter, tmp_path / "out")
    assert sorted(again) == sorted(tensors)
    assert present(fields)["unet.lora_bias"] is True


def test_part_that_the_metadata_does_not_announce_is_a_problem() -> None:
    tensors = module() | {f"{UNET}.lora_magnitude_vector": torch.ones(4)}
    (problem,) = notes(decoded(tensors, {**STATED, "unet.use_dora": False}), "problem")
    assert problem.startswith("unet: use_dora is not set, and lora_magnitude_vector is stored")


# What is refused, and what is said


@pytest.mark.parametrize(
    ("tensors", "fields", "message"),
    [
        ({f"{UNET}.{A}": torch.ones(2, 3)}, None, "has lora_A and no lora_B: half an update"),
        (module() | {"unet.conv_in.weight": torch.ones(3)}, None,
         "unet.conv_in.weight: an unknown key"),
        (module() | {"unet.conv_in.alpha": torch.ones(())}, None,
         "unet.conv_in.alpha: an alpha of a module without factors"),
        (module() | module("conv_in"), None, "does not say which component"),
        (module() | module(ends=(".lora.down.weight", ".lora.up.weight")), None,
         "says the same as"),
        (module() | {f"{UNET}.alpha": torch.ones(()),
                     UNET.replace("unet.", "unet.base_model.model.") + ".alpha": torch.ones(())},
         None, "alpha: says the same as"),
        (module() | module("unet"), None, "does not say which component"),
        (module(), "{", "lora_adapter_metadata: not valid JSON"),
        (module(), "[1]", "lora_adapter_metadata: must be a JSON object"),
        (module(), {"unet.r": "two"}, "unet: r must be a finite number"),
        (module(), {"unet.r": 2, "unet.rank_pattern": {"(": 2}}, "rank_pattern"),
        ({f"{UNET}.{A}": torch.ones(2, 3), f"{UNET}.{B}": torch.ones(4, 5)}, None,
         "do not have the same rank"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_named(
    tensors: Mapping[str, Tensor], fields: object, message: str
) -> None:
    with pytest.raises(LoratoolsError) as caught:
        decoded(tensors, fields)
    assert message in str(caught.value)
    assert str(caught.value).startswith("here: ")


def test_metadata_with_another_rank_than_the_tensors_is_refused_until_it_is_corrected() -> None:
    fields = {"unet.r": 4, "unet.lora_alpha": 4}
    adapter = decoded(module(rank=2), fields)
    with pytest.raises(UnsupportedError, match=r"here: unet: the config says rank 4"):
        adapter.check_usable()
    corrected = decode(bundle(module(rank=2), fields, {**fields, "unet.r": 2}))
    corrected.check_usable()
    assert scalings(corrected) == [2]
    assert "here" not in json.loads(encode(corrected).metadata["lora_adapter_metadata"])


def test_component_without_tensors_or_without_metadata_is_a_problem(tmp_path: Path) -> None:
    (problem,) = notes(decoded(module() | module(TEXT), STATED), "problem")
    assert problem.startswith("text_encoder: the metadata has no target_modules for it")
    adapter = decoded(module(), {**STATED, "text_encoder.r": 2})
    (problem,) = notes(adapter, "problem")
    assert problem.startswith("the metadata has fields of text_encoder, of which no tensor")
    assert written(adapter, tmp_path / "out")[1] == STATED


def test_config_of_something_else_is_not_used() -> None:
    adapter = decode(bundle(module(), None, {"r": 7}))
    assert scalings(adapter) == [1]
    assert "a config does not belong to this format, and is not used" in notes(adapter, "info")


@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.floats(1e-3, 1e3)), min_size=1, max_size=6),
    rule=st.sampled_from(["rank", "sqrt_rank"]),
)
@settings(max_examples=40)
def test_every_rank_and_alpha_comes_back_from_the_metadata_exactly(
    sizes: list[tuple[int, float]], rule: Rule
) -> None:
    updates = {}
    for number, (rank, alpha) in enumerate(sizes):
        component = ("unet", "text_encoder")[number % 2]
        name = f"{component}.blocks.{number % 3}.{'ab'[number % 2]}.proj"
        factors = module(name, rank=rank)
        down, up = (Held(key, tensor, "F32") for key, tensor in factors.items())
        lora = LoRA(up, down, Scaling(alpha, rank, rule, "config"), (4, 3))
        updates[f"{name}.weight"] = Update(lora)
    adapter = replace(decoded(module()), updates=updates, filed=None)
    again = decode(encode(adapter, "diffusers"))
    assert again.updates.keys() == updates.keys()
    for target, update in updates.items():
        one, other = (present(u.delta.low_rank) for u in (update, again.updates[target]))
        assert one.scaling.value == other.scaling.value
        assert (one.scaling.alpha, one.rank) == (other.scaling.alpha, other.rank)
        assert torch.equal(one.up.read(), other.up.read())
        assert torch.equal(one.down.read(), other.down.read())


def test_what_is_canonical_is_enough_to_write_it() -> None:
    magnitude = {f"{TEXT}.lora_magnitude_vector": torch.rand(4)}
    bias = {f"{CONV}.lora_B.bias": torch.rand(4)}
    tensors = module(rank=3) | module(CONV, shape=(4, 3, 3, 3)) | bias | module(TEXT) | magnitude
    fields = {
        "unet.r": 2, "unet.lora_alpha": 4, "unet.rank_pattern": {"to_q": 3},
        "unet.alpha_pattern": {"conv1": 1}, "unet.lora_bias": True, "unet.use_rslora": True,
        "text_encoder.r": 2, "text_encoder.lora_alpha": 6, "text_encoder.use_dora": True,
    }  # fmt: skip
    tensors |= {f"{UNET}.lora_B.bias": torch.rand(4)}
    adapter = decoded(tensors, fields)
    assert adapter.kinds == ("rsLoRA", "diff", "DoRA")
    again = decode(encode(replace(adapter, filed=None), "diffusers"))
    assert_same(adapter, again)


# What is written


def header_of(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header


def test_unchanged_file_keeps_its_order_and_the_text_of_its_metadata(tmp_path: Path) -> None:
    tensors = dict(reversed((module() | module(TEXT)).items()))
    of_text = {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    fields = {**STATED, **{f"text_encoder.{name}": value for name, value in of_text.items()}}
    text = json.dumps(fields, separators=(",", " : "))
    adapter = decoded(tensors, text)
    write_adapter(adapter, tmp_path / "out.safetensors", inputs=[])
    header = header_of(tmp_path / "out.safetensors")
    assert header.pop("__metadata__") == {"format": "pt", "lora_adapter_metadata": text}
    assert list(header) == list(tensors)


def test_field_that_was_not_needed_is_added_where_it_is(tmp_path: Path) -> None:
    tensors = module() | module("unet.mid.to_q")
    adapter = decoded(tensors, STATED)
    update = adapter.updates[f"{UNET}.weight"]
    updates = {**adapter.updates, f"{UNET}.weight": Update(update.delta.scaled(3.0))}
    _, fields = written(replace(adapter, updates=updates), tmp_path / "out")
    assert {**present(fields), "unet.lora_alpha": 2, "unet.alpha_pattern": {}} == {
        **STATED,
        "unet.alpha_pattern": {},
    }
    assert scalings(loratools.open_adapter(tmp_path / "out")) == [3, 1]


def test_metadata_without_target_modules_gets_those_that_are_stored(tmp_path: Path) -> None:
    tensors = module() | module(TEXT)
    fields = {"unet.r": 2, "unet.lora_alpha": 2, "text_encoder.r": 2, "text_encoder.lora_alpha": 2}
    _, found = written(decoded(tensors, fields), tmp_path / "out")
    assert found == {
        **fields,
        "unet.target_modules": [UNET.removeprefix("unet.")],
        # Without `text_model`, which transformers 5 has left out.
        "text_encoder.target_modules": ["encoder.layers.0.self_attn.q_proj"],
    }


def test_bias_without_metadata_is_announced_by_itself() -> None:
    adapter = decoded(module() | {f"{UNET}.lora_B.bias": torch.ones(4)})
    assert not notes(adapter, "problem")
    assert "lora_adapter_metadata" not in encode(adapter).metadata


def test_module_in_no_component_is_not_written_beside_one_that_is() -> None:
    adapter = decoded(module("blocks.0.to_q"), {"r": 2, "lora_alpha": 2})
    mixed = replace(adapter, updates={**adapter.updates, **decoded(module()).updates})
    with pytest.raises(UnsupportedError, match=r"blocks\.0\.to_q\.weight: does not begin with"):
        encode(mixed)


@pytest.mark.parametrize(
    ("target", "update", "message"),
    [
        ("model.q.weight", Update(LORA), "does not begin with a component"),
        ("unet.q.weight", Update(KASA), "no place for a KaSA"),
        ("unet.q.weight", Update(LORA, is_embedding=True), "no place for an embedding"),
        ("unet.q.weight", Update(LORA, fan_in_fan_out=True), "stored as (in, out)"),
        ("unet.q.bias", Update(Diff(HELD, Scaling(1, 1, "rank", "config"))), "no place for a diff"),
    ],
)
def test_what_diffusers_has_no_place_for_is_refused_by_its_target(
    target: str, update: Update, message: str
) -> None:
    adapter = replace(decoded(module()), updates={target: update}, filed=None)
    with pytest.raises(UnsupportedError, match=re.escape(message)) as caught:
        encode(adapter, "diffusers")
    assert str(caught.value).startswith(f"here: {target}: ") or "unet: " in str(caught.value)


# In other verbs


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_component_is_merged_into_a_base_with_or_without_it_in_the_names(
    prefix: str, tmp_path: Path
) -> None:
    tensors = module() | module("unet.proj_in", shape=(4, 5))
    save_file(tensors, tmp_path / "lora.safetensors")
    names = {UNET: (4, 3), "unet.proj_in": (4, 5)}
    base = {
        f"{prefix}{name.removeprefix('unet.')}.weight": torch.zeros(shape)
        for name, shape in names.items()
    }
    # A module of the same name inside of another is another module.
    base[f"{prefix}mid_block.proj_in.weight"] = torch.zeros(4, 5)
    save_file(base, tmp_path / "base.safetensors")
    loratools.merge(
        tmp_path / "base.safetensors",
        tmp_path / "lora.safetensors",
        output=tmp_path / "out.safetensors",
    )
    merged = load_file(tmp_path / "out.safetensors")
    for name in names:
        expected = tensors[f"{name}.{B}"].double() @ tensors[f"{name}.{A}"].double()
        assert torch.equal(merged[f"{prefix}{name.removeprefix('unet.')}.weight"], expected.float())
    assert not merged[f"{prefix}mid_block.proj_in.weight"].any()


def test_output_is_a_file_or_a_folder_by_its_name(tmp_path: Path) -> None:
    adapter = decoded(module())
    write_adapter(adapter, tmp_path / "folder", inputs=[])
    write_adapter(adapter, tmp_path / "file.safetensors", inputs=[])
    (inside,) = (tmp_path / "folder").iterdir()
    assert inside.name == "pytorch_lora_weights.safetensors"
    assert inside.read_bytes() == (tmp_path / "file.safetensors").read_bytes()
    for path in (tmp_path / "folder", tmp_path / "file.safetensors"):
        assert list(loratools.open_adapter(path).updates) == [f"{UNET}.weight"]


def test_pickle_of_attention_processors_is_read_if_that_is_allowed(tmp_path: Path) -> None:
    ends = ("_lora.down.weight", "_lora.up.weight")
    torch.save(module(f"{BLOCK}.processor.to_q", ends=ends), tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(UnsupportedError, match="a pickle"):
        loratools.open_adapter(tmp_path)
    adapter = loratools.open_adapter(tmp_path, allow_pickle=True)
    assert list(adapter.updates) == [f"{UNET}.weight"]
