"""Files under ComfyUI's names of modules: every spelling of parts, written again as read."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import loratools
from loratools.deltas.dora import DoRA
from loratools.errors import FormatError, MatchError, UnsupportedError
from loratools.formats import decode, encode
from loratools.formats._dialect import Sureness
from loratools.formats.comfyui.read import claim
from loratools.io.bundle import Bundle
from loratools.io.source import Held
from loratools.reshaping.combined import Combination, combined
from loratools.reshaping.rescaled import Rescaling, rescaled
from tests.adapters import effects
from tests.deltas.computing import applied
from tests.formats.kohya.modules import bundle
from tests.narrowing import present

UNET = "diffusion_model.double_blocks.0.img_attn.qkv"
TEXT = "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"
#: The pairs of ends that ComfyUI tries for each module, down before up.
PAIRS = [
    (".lora_down.weight", ".lora_up.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_A", ".lora_B"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
]
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0])
AI_TOOLKIT = PAIRS[2]


def module(
    name: str = UNET,
    pair: tuple[str, str] = AI_TOOLKIT,
    alpha: float | None = None,
    shape: tuple[int, ...] = (4, 3),
    rank: int = 2,
) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(sum(map(ord, name)))
    ones = (1,) * (len(shape) - 2)
    down = torch.randn(rank, *shape[1:], generator=random)
    up = torch.randn(shape[0], rank, *ones, generator=random)
    alphas = {} if alpha is None else {f"{name}.alpha": torch.tensor(alpha)}
    return {f"{name}{pair[0]}": down, f"{name}{pair[1]}": up, **alphas}


def product(tensors: Mapping[str, Tensor], scaling: float) -> Tensor:
    down, up, *_ = tensors.values()
    return scaling * (up.flatten(1).double() @ down.flatten(1).double())


def assert_written_as(files: Bundle, written: Bundle) -> None:
    """The same tensors under the same keys, without the name that an adapter had in memory."""
    plain = {re.sub(r"(lora_[AB])\.\w+\.", r"\1.", key): s for key, s in files.tensors.items()}
    assert list(written.tensors) == list(plain)
    for key, source in plain.items():
        assert torch.equal(written.tensors[key].read(), source.read()), key
    assert written.metadata == files.metadata


@each_pair
@pytest.mark.parametrize("name", [UNET, TEXT])
@pytest.mark.parametrize("alpha", [None, 0.5, 3.0])
def test_each_spelling_is_read_by_the_same_formula_and_written_again(
    name: str, pair: tuple[str, str], alpha: float | None
) -> None:
    tensors = module(name, pair, alpha)
    adapter = decode(bundle(tensors))
    assert present(adapter.filed).dialect == "comfyui"
    scaling = present(adapter.updates[f"{name}.weight"].delta.scaling)
    assert scaling.value == (1 if alpha is None else alpha / 2)
    assert scaling.origin == ("assumed" if alpha is None else "tensor")
    expected = product(tensors, scaling.value)
    torch.testing.assert_close(effects(adapter)[f"{name}.weight"], expected, rtol=0, atol=0)
    assert_written_as(bundle(tensors), encode(adapter))


@each_pair
@pytest.mark.parametrize(
    ("end", "shape", "axis"),
    [
        (".dora_scale", (4, 1), "row"),
        (".dora_scale", (1, 3), "column"),
        (".magnitude", (4,), "row"),
        (".lora_magnitude_vector", (4,), "row"),
        (".lora_magnitude_vector.weight", (4,), "row"),
    ],
)
def test_magnitudes_of_each_spelling_are_read_and_written_again(
    pair: tuple[str, str], end: str, shape: tuple[int, ...], axis: str
) -> None:
    tensors = module(pair=pair, alpha=1.0) | {f"{UNET}{end}": torch.rand(shape) + 1}
    adapter = decode(bundle(tensors))
    assert adapter.kinds == ("DoRA",)
    weight = torch.randn(4, 3, dtype=torch.float64)
    changed = weight + product(tensors, 0.5)
    norms = torch.linalg.vector_norm(changed, dim=1 if axis == "row" else 0, keepdim=True)
    magnitude = tensors[f"{UNET}{end}"].double()
    expected = (magnitude[:, None] if len(shape) == 1 else magnitude) * changed / norms
    after = applied(adapter.updates[f"{UNET}.weight"].delta, weight)
    # A norm is that of at most four numbers, with a rounding error of at most one for each.
    allowed = len(weight) * torch.finfo(torch.float64).eps
    torch.testing.assert_close(after, expected, rtol=allowed, atol=0)
    assert_written_as(bundle(tensors), encode(adapter))
    assert_written_as(bundle(tensors), encode(rescaled(adapter, Rescaling()).adapter))


def test_magnitudes_of_a_square_weight_are_those_of_outputs_if_their_name_says_so() -> None:
    """ai-toolkit and PEFT store one for each output; other programs store either in one row."""
    for end in (".magnitude", ".lora_magnitude_vector"):
        adapter = decode(bundle(module(shape=(3, 3)) | {f"{UNET}{end}": torch.rand(3) + 1}))
        assert adapter.updates[f"{UNET}.weight"].delta.by_rows
        assert not any("does not tell" in note.message for note in adapter.notes)


def test_tucker_core_is_read_and_written_again() -> None:
    name = "diffusion_model.input_blocks.0.0"
    tensors = {
        f"{name}.alpha": torch.tensor(1.0),
        f"{name}.lora_down.weight": torch.randn(2, 3, 1, 1),
        f"{name}.lora_mid.weight": torch.randn(2, 2, 3, 3),
        f"{name}.lora_up.weight": torch.randn(4, 2, 1, 1),
    }
    adapter = decode(bundle(tensors))
    assert adapter.kinds == ("Tucker LoCon",)
    assert adapter.updates[f"{name}.weight"].delta.shape == (4, 3, 3, 3)
    assert_written_as(bundle(tensors), encode(adapter))


def test_dora_of_another_format_is_written_with_magnitudes_that_comfyui_reads() -> None:
    prefix = f"base_model.model.{UNET}"
    peft = {
        f"{prefix}.lora_A.weight": torch.randn(2, 3),
        f"{prefix}.lora_B.weight": torch.randn(4, 2),
        f"{prefix}.lora_magnitude_vector": torch.rand(4) + 1,
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": True}
    adapter = decode(bundle(peft, config=config))
    # One for each output is divided by the norms of other numbers than in training.
    with pytest.raises(UnsupportedError, match="which ComfyUI does not apply as it was trained"):
        encode(adapter, "comfyui")
    ((target, update),) = adapter.updates.items()
    assert isinstance(update.delta, DoRA)
    magnitude = torch.rand(3) + 1
    by_input = replace(update.delta, magnitude=Held("m", magnitude, "F32"), axis="column")
    adapter = replace(adapter, updates={target: replace(update, delta=by_input)})
    written = encode(adapter, "comfyui")
    assert set(written.tensors) == {
        f"{UNET}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha", "dora_scale")
    }
    assert torch.equal(written.tensors[f"{UNET}.dora_scale"].read(), magnitude[None])
    assert written.tensors[f"{UNET}.alpha"].read() == 4


def test_flattened_names_beside_those_of_a_checkpoint_are_read_and_kept() -> None:
    tensors = module() | module("lora_te1_text_model_encoder_layers_0_mlp_fc1", PAIRS[0], 1.0)
    adapter = decode(bundle(tensors))
    assert present(adapter.filed).dialect == "comfyui"
    assert len(adapter.updates) == 2
    assert_written_as(bundle(tensors), encode(adapter))


def test_spellings_may_differ_from_module_to_module() -> None:
    tensors: dict[str, Tensor] = {}
    for number, pair in enumerate(PAIRS):
        tensors |= module(
            f"diffusion_model.blocks.{number}.q", pair, alpha=1.0 if number % 2 else None
        )
    adapter = decode(bundle(tensors))
    assert len(adapter.updates) == len(PAIRS)
    assert_written_as(bundle(tensors), encode(adapter))


def test_convolution_is_read_and_written_with_its_kernel() -> None:
    tensors = module("diffusion_model.input_blocks.0.0", PAIRS[0], 1.0, (4, 3, 3, 3))
    adapter = decode(bundle(tensors))
    assert adapter.updates["diffusion_model.input_blocks.0.0.weight"].delta.shape == (4, 3, 3, 3)
    assert_written_as(bundle(tensors), encode(adapter))


def test_another_strength_is_an_alpha_beside_factors_that_keep_their_names() -> None:
    """ComfyUI ignores metadata, so a file without alphas gets one."""
    tensors = module()
    written = encode(rescaled(decode(bundle(tensors)), Rescaling(strength=0.25)).adapter)
    assert set(written.tensors) == {*tensors, f"{UNET}.alpha"}
    assert written.tensors[f"{UNET}.alpha"].read() == 0.5
    again = effects(decode(written))[f"{UNET}.weight"]
    torch.testing.assert_close(again, product(tensors, 0.25), rtol=0, atol=0)


def test_alpha_that_is_missing_beside_others_is_written_when_it_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save_file(module() | module(TEXT, alpha=1.0), path)
    repaired = tmp_path / "repaired.safetensors"
    loratools.rescale(path, output=repaired, rescaling=Rescaling(), repair=["missing-alpha"])
    assert load_file(repaired)[f"{UNET}.alpha"] == 2


def test_no_module_is_left_without_an_alpha_beside_others_that_have_one() -> None:
    adapter = decode(bundle(module(alpha=2.0) | module(TEXT, alpha=1.0)))
    written = encode(rescaled(adapter, Rescaling(rule="rslora")).adapter)
    assert {f"{UNET}.alpha", f"{TEXT}.alpha"} < set(written.tensors)


def test_module_of_another_adapter_gets_the_names_of_kohya() -> None:
    one, other = decode(bundle(module())), decode(bundle(module(TEXT, PAIRS[1])))
    both = encode(combined([one, other], [1, 1], None, Combination()).adapter)
    assert set(module()) < set(both.tensors)
    assert {f"{TEXT}.lora_down.weight", f"{TEXT}.lora_up.weight"} < set(both.tensors)


@pytest.mark.parametrize("alpha", [2.0, 1.0])
def test_file_that_is_made_anew_has_alphas_only_where_they_are_needed(alpha: float) -> None:
    tensors = module(pair=PAIRS[0])
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": alpha}
    peft = {
        f"base_model.model.{key}".replace("_down", "_A").replace("_up", "_B"): tensor
        for key, tensor in tensors.items()
    }
    written = encode(decode(bundle(peft, config=config)), "comfyui")
    assert set(written.tensors) == {*tensors, *([f"{UNET}.alpha"] if alpha != 2 else [])}
    again = effects(decode(written))[f"{UNET}.weight"]
    torch.testing.assert_close(again, product(tensors, alpha / 2), rtol=0, atol=0)
    assert written.metadata == {}


@pytest.mark.parametrize("name", ["transformer.blocks.0.q", "unet.a.q", "text_encoder_2.a.q"])
def test_names_of_diffusers_with_parts_of_kohya_are_kept(name: str) -> None:
    tensors = module(name, PAIRS[0], 1.0)
    adapter = decode(bundle(tensors))
    assert present(adapter.filed).dialect == "comfyui"
    assert_written_as(bundle(tensors), encode(adapter))
    with pytest.raises(UnsupportedError, match=f"{name}.weight: not the name of a module that"):
        encode(replace(adapter, filed=None), "comfyui")


@pytest.mark.parametrize(
    ("name", "base"),
    [
        (UNET, UNET),
        (UNET, f"model.{UNET}"),
        (UNET, UNET.removeprefix("diffusion_model.")),
        (TEXT, TEXT),
        (TEXT, TEXT.removeprefix("text_encoders.clip_l.transformer.")),
    ],
)
def test_modules_are_found_in_checkpoints_and_in_single_models(
    name: str, base: str, tmp_path: Path
) -> None:
    weight = torch.randn(4, 3)
    save_file({f"{base}.weight": weight}, tmp_path / "base.safetensors")
    tensors = module(name, alpha=1.0)
    save_file(tensors, tmp_path / "adapter.safetensors")
    loratools.merge(
        tmp_path / "base.safetensors",
        tmp_path / "adapter.safetensors",
        output=tmp_path / "out.safetensors",
    )
    merged = load_file(tmp_path / "out.safetensors")[f"{base}.weight"]
    assert torch.equal(merged, (weight.double() + product(tensors, 0.5)).float())


def test_slices_of_a_fused_weight_are_read_and_not_merged_into_another(tmp_path: Path) -> None:
    stem = "transformer.double_blocks.0.img_attn.qkv"
    tensors = module(f"{stem}.0", PAIRS[0], 1.0) | module(f"{stem}.2", PAIRS[0], 1.0)
    save_file(tensors, tmp_path / "slices.safetensors")
    base = {"double_blocks.0.img_attn.qkv.weight": torch.zeros(12, 3)}
    save_file(base, tmp_path / "base.safetensors")
    with pytest.raises(MatchError, match=r"qkv\.0\.weight \[4, 3\]: no such tensor in the base"):
        loratools.merge(
            tmp_path / "base.safetensors",
            tmp_path / "slices.safetensors",
            output=tmp_path / "out.safetensors",
        )


def test_metadata_of_a_training_is_kept_true() -> None:
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "2",
        "ss_network_alpha": "1",
    }
    tensors = module(alpha=1.0)
    written = encode(rescaled(decode(bundle(tensors, metadata)), Rescaling(strength=3)).adapter)
    assert written.metadata["ss_network_alpha"] == "3"


@pytest.mark.parametrize(
    ("tensors", "sureness"),
    [
        (module(), Sureness.KEYS),
        ({f"{UNET}.lokr_w1": torch.ones(2, 2)}, Sureness.POSSIBLE),
        ({f"{UNET}.weight": torch.ones(2, 2), f"{UNET}.alpha": torch.ones(2)}, Sureness.NO),
        (module() | {f"{TEXT}.lokr_w1": torch.ones(2, 2)}, Sureness.KEYS),
        (module("transformer.blocks.0.q"), Sureness.NO),
        (module("transformer.blocks.0.q", PAIRS[0]), Sureness.KEYS),
        (module("transformer.a", PAIRS[0]) | module("transformer.b", PAIRS[3]), Sureness.KEYS),
        (module("lora_te1_q", PAIRS[0]), Sureness.NO),
        (module("diffusion_modeling.q"), Sureness.NO),
    ],
)
def test_names_of_a_checkpoint_with_a_part_are_this_formats(
    tensors: dict[str, Tensor], sureness: Sureness
) -> None:
    assert claim(bundle(tensors)) is sureness


def test_names_of_diffusers_may_have_parts_of_kohya_and_of_peft_in_one_file() -> None:
    names = ("unet.a.to_q", "unet.a.to_k")
    tensors = module(names[0], PAIRS[0], alpha=1.0) | module(names[1], PAIRS[2])
    adapter = decode(bundle(tensors))
    assert present(adapter.filed).dialect == "comfyui"
    for name, scaling in zip(names, (0.5, 1.0), strict=True):
        own = {key: tensor for key, tensor in tensors.items() if key.startswith(name)}
        found = effects(adapter)[f"{name}.weight"]
        torch.testing.assert_close(found, product(own, scaling), rtol=0, atol=0)
    assert_written_as(bundle(tensors), encode(adapter))


def test_keys_count_more_than_a_config_of_another_kind() -> None:
    adapter = decode(bundle(module(), config={"lora_parameters": {}}))
    assert present(adapter.filed).dialect == "comfyui"
    assert any("a config does not belong" in note.message for note in adapter.notes)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({f"{UNET}.lokr_w1": (2, 2)}, UnsupportedError, "lokr_w1: LoKr .* cannot be read yet"),
        ({f"{UNET}.set_weight": (2, 2)}, UnsupportedError, "set_weight: a weight .* be read yet"),
        ({f"{UNET}.diff_b": (2,)}, UnsupportedError, "diff_b: a difference .* cannot be read yet"),
        ({f"{UNET}.lora_down.weight": (2, 3)}, FormatError, "means the same tensor as .*lora_A"),
        ({f"{UNET}.bias": (4,)}, FormatError, r"qkv\.bias: an unknown key"),
        ({"blocks.q.lora_A.weight": (2, 3)}, FormatError, "blocks.q.* an unknown key"),
        ({f"{TEXT}.lora_A.weight": (2, 3)}, FormatError, "fc1 has .* no lora_up.weight: half an"),
    ],
)
def test_what_cannot_be_read_is_named(
    more: dict[str, tuple[int, ...]], error: type[Exception], message: str
) -> None:
    tensors = module() | {key: torch.ones(shape) for key, shape in more.items()}
    with pytest.raises(error, match=message):
        decode(bundle(tensors))


def test_other_names_are_refused_when_written() -> None:
    adapter = decode(bundle(module("lora_unet_q", PAIRS[0])))
    with pytest.raises(UnsupportedError, match=r"lora_unet_q\.weight: not the name of a module"):
        encode(replace(adapter, filed=None), "comfyui")
