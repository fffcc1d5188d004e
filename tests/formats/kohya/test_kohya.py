"""What kohya's files mean, what is refused by name, and that they are written as they were."""

import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import loratools
from loratools import MergeOptions
from loratools.adapter import Adapter
from loratools.deltas import keys_of
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.deltas.lora import Scaling
from loratools.errors import FormatError, LoratoolsError, UnsupportedError
from loratools.files.writing import write_adapter
from loratools.formats import Sureness, decode, encode
from loratools.formats.kohya.read import claim
from loratools.io.bundle import Bundle
from loratools.io.dtypes import FLOATS, to_torch
from loratools.io.source import Held
from loratools.parts import Filed, Provenance, ReplacedRows, Replacement, Update
from tests.formats.kohya.modules import (
    TEXT,
    TRAINED,
    UNET,
    bundle,
    decoded,
    lora_of,
    module,
    tucker,
)
from tests.narrowing import present

FIXTURES = Path(__file__).parents[3] / "fixtures" / "kohya"


def with_scaling(adapter: Adapter, **fields: Any) -> Adapter:
    """The adapter with every scaling changed."""
    updates = {}
    for target, update in adapter.updates.items():
        lora = lora_of(adapter, target.removesuffix(".weight"))
        lora = replace(lora, scaling=replace(lora.scaling, **fields))
        updates[target] = replace(update, delta=lora)
    return replace(adapter, updates=updates)


def written(adapter: Adapter, path: Path) -> dict[str, Tensor]:
    write_adapter(adapter, path, inputs=[])
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def saved(folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    path = folder / "lora.safetensors"
    safetensors.torch.save_file(dict(tensors), path, dict(metadata))
    return path


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def notes(adapter: Adapter) -> list[tuple[str, str]]:
    return [(note.severity, note.message) for note in adapter.notes]


# What a file means


def test_update_is_alpha_over_rank_times_up_times_down() -> None:
    """1/2 · [[1 0] [2 1]] · [[1 2] [0 4]] = [[0.5 1] [1 4]]."""
    tensors = {
        f"{TEXT}.alpha": torch.tensor(1.0),
        f"{TEXT}.lora_down.weight": torch.tensor([[1.0, 2.0], [0.0, 4.0]]),
        f"{TEXT}.lora_up.weight": torch.tensor([[1.0, 0.0], [2.0, 1.0]]),
    }
    adapter = decoded(tensors)
    assert list(adapter.updates) == [f"{TEXT}.weight"]
    lora = lora_of(adapter, TEXT)
    dense = lora.scaling.value * lora.up.read() @ lora.down.read()
    assert dense.tolist() == [[0.5, 1.0], [1.0, 4.0]]
    assert lora.scaling == Scaling(alpha=1, rank=2, rule="rank", origin="tensor")
    assert adapter.updates[f"{TEXT}.weight"] == Update(lora, fan_in_fan_out=None)


@pytest.mark.parametrize(
    "name",
    [
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
        "lora_transformer_transformer_blocks_0_attn_to_q",
        "lora_prior_unet_down_blocks_0_0_attn_to_q",
        "lora_unet__blocks_0_self_attn_q",
        "lycoris_transformer_blocks_0_attn_to_q",
        "some_other_prefix_attn_to_q",
    ],
)
def test_any_flattened_name_is_a_target(name: str) -> None:
    assert list(decoded(module(name)).updates) == [f"{name}.weight"]


def test_every_tensor_is_counted_with_its_update_in_file_order() -> None:
    tensors = module() | module(TEXT, alpha=None) | module("lora_unet_conv", shape=(4, 3, 3, 3))
    adapter = decoded(tensors)
    used = [key for update in adapter.updates.values() for key in keys_of(update.delta)]
    assert sorted(used) == sorted(tensors)
    assert list(present(adapter.filed).order) == list(tensors)


def test_alpha_is_one_number_of_any_dtype_and_with_any_axes() -> None:
    for dtype in (*map(to_torch, FLOATS), torch.int64):
        for shape in ((), (1,), (1, 1)):
            tensors = module() | {f"{UNET}.alpha": torch.full(shape, 4, dtype=dtype)}
            assert lora_of(decoded(tensors)).scaling.value == 2


def test_missing_alpha_is_the_rank() -> None:
    scaling = lora_of(decoded(module(alpha=None))).scaling
    assert (scaling.value, scaling.origin) == (1, "assumed")


def test_alpha_of_zero_is_kept() -> None:
    assert lora_of(decoded(module(alpha=0))).scaling.value == 0


def test_metadata_never_counts() -> None:
    metadata = TRAINED | {"ss_network_dim": "16", "ss_network_alpha": "8"}
    adapter = decoded(module(alpha=1), metadata)
    assert lora_of(adapter).scaling.value == 0.5
    assert notes(adapter) == [
        ("info", "ss_network_dim says 16, the tensors have 2, which counts"),
        ("info", "ss_network_alpha says 8, the tensors have 1, which counts"),
    ]


@pytest.mark.parametrize("said", ["2", "2.0", "Dynamic", "None", "", "nan?"])
def test_metadata_that_agrees_or_says_no_number_is_not_noted(said: str) -> None:
    assert notes(decoded(module(alpha=2), {"ss_network_dim": said, "ss_network_alpha": said})) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_alpha_in_the_metadata_is_compared_by_the_rounding_of_the_tensor(
    dtype: torch.dtype,
) -> None:
    for text in ("0.1", "0.3", "7.3", "1e-3", "3.1415926"):
        tensors = module(alpha=float(text), dtype=dtype)
        assert notes(decoded(tensors, {"ss_network_alpha": text})) == []


def test_kernels_are_compared_with_the_arguments_for_convolutions() -> None:
    tensors = (
        module(alpha=1)
        | module("lora_unet_proj", shape=(4, 3, 1, 1), alpha=1)
        | module("lora_unet_conv", shape=(4, 3, 3, 3), rank=3, alpha=0.5)
    )
    arguments = {"conv_dim": "3", "conv_alpha": 0.5}
    assert notes(decoded(tensors, TRAINED | {"ss_network_args": json.dumps(arguments)})) == []
    arguments = {"conv_dim": "8", "conv_alpha": "0.5"}
    assert notes(decoded(tensors, TRAINED | {"ss_network_args": json.dumps(arguments)})) == [
        ("info", "conv_dim in ss_network_args says 8, the tensors have 3, which counts")
    ]
    assert notes(decoded(tensors, TRAINED)) == [
        ("info", "ss_network_dim says 2, the tensors have 2, 3, which counts"),
        ("info", "ss_network_alpha says 1.0, the tensors have 1, 0.5, which counts"),
    ]


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"conv_dim": [1]}', "[" * 20000])
def test_arguments_that_are_no_object_say_nothing(text: str) -> None:
    adapter = decoded(module(), TRAINED | {"ss_network_args": text})
    assert notes(adapter) == []
    assert encode(adapter).metadata["ss_network_args"] == text


def test_origin_is_that_of_the_metadata() -> None:
    metadata = TRAINED | {
        "ss_base_model_version": "sd_v1",
        "ss_sd_model_name": "base.safetensors",
        "ss_sd_scripts_commit_hash": "8eb60baf3a920fb8",
        "ss_tag_frequency": "{}",
    }
    adapter = decoded(module(), metadata)
    assert (adapter.provenance.base, adapter.provenance.family) == ("base.safetensors", "sd_v1")
    assert adapter.provenance.trainer == "sd-scripts 8eb60baf"
    assert present(adapter.filed).settings == {**TRAINED, "ss_base_model_version": "sd_v1"}
    assert present(adapter.filed).metadata == metadata
    adapter = decoded(module(), {"modelspec.architecture": "flux-1-dev/lora"})
    assert adapter.provenance == Provenance(family="flux-1-dev")
    assert decoded(module()).provenance == Provenance()


@pytest.mark.parametrize("name", ["sd15-locon", "sdxl-dynamic"])
def test_made_file_is_read_and_written_again_byte_for_byte(tmp_path: Path, name: str) -> None:
    """Its metadata is true, by hashes computed without loratools, so nothing of it may change."""
    folder = FIXTURES / name
    source = folder / f"{name}.safetensors"
    expected = json.loads((folder / "expected.json").read_text())
    assert hashlib.sha256(source.read_bytes()).hexdigest() == expected["sha256"]
    adapter = loratools.open_adapter(folder)
    assert adapter.notes == ()
    assert [t.removesuffix(".weight") for t in adapter.updates] == list(expected["delta_norms"])
    written(adapter, tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == source.read_bytes()


def test_file_is_merged_into_the_base_that_has_its_names(tmp_path: Path) -> None:
    """A U-Net by its own names, with a 1x1 convolution that has become a linear layer."""
    tensors = load_file(FIXTURES / "sd15-locon" / "sd15-locon.safetensors")
    random = torch.Generator().manual_seed(0)
    block = "down_blocks.0.attentions.1"
    shapes = {
        f"{block}.transformer_blocks.0.attn1.to_out.0": (32, 32),
        f"{block}.proj_in": (32, 32),
        f"{block}.proj_out": (32, 32, 1, 1),
        "down_blocks.0.resnets.0.conv1": (32, 32, 3, 3),
    }
    base = {f"{name}.weight": torch.randn(s, generator=random) for name, s in shapes.items()}
    safetensors.torch.save_file(base | {"conv_in.bias": torch.ones(3)}, tmp_path / "b.safetensors")
    report = loratools.merge(
        tmp_path / "b.safetensors",
        FIXTURES / "sd15-locon",
        output=tmp_path / "out.safetensors",
        weights=[0.5],
        options=MergeOptions(only=tuple(f"*{name.replace('.', '_')}.weight" for name in shapes)),
    )
    assert (len(report.plan.accounting.applied), len(report.plan.accounting.skipped)) == (
        12,
        len(tensors) - 12,
    )
    merged = load_file(tmp_path / "out.safetensors")
    for name, shape in shapes.items():
        path = f"lora_unet_{name.replace('.', '_')}"
        down, up = (tensors[f"{path}.lora_{part}.weight"].double() for part in ("down", "up"))
        delta = 0.25 * up.flatten(1) @ down.flatten(1)
        expected = base[f"{name}.weight"].double() + delta.reshape(shape)
        assert torch.equal(merged[f"{name}.weight"], expected.float())


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("lora_unet_blocks_0_self_attn_q", "blocks.0.self_attn.q"),
        ("lora_unet__blocks_0_self_attn_q", "blocks.0.self_attn.q"),
        (
            "lora_unet_transformer_blocks_0_img_mlp_net_0_proj",
            "transformer_blocks.0.img_mlp.net.0.proj",
        ),
        ("lycoris_transformer_blocks_0_attn_to_q", "transformer_blocks.0.attn.to_q"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "text_model.encoder.layers.0.mlp.fc1"),
        (
            "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
            "encoder.block.0.layer.0.SelfAttention.q",
        ),
        ("blocks.0.self_attn.q", "blocks.0.self_attn.q"),
    ],
)
@pytest.mark.parametrize("change", [module, tucker])
def test_names_of_all_trainers_are_found_in_the_base(
    name: str, path: str, change: Any, tmp_path: Path
) -> None:
    shape = (4, 3) if change is module else (4, 3, 3, 3)
    source = saved(tmp_path, change(name, shape=shape), {})
    base = {f"{path}.weight": torch.zeros(shape), "other.weight": torch.ones(shape)}
    safetensors.torch.save_file(base, tmp_path / "base.safetensors")
    output = tmp_path / "out.safetensors"
    loratools.merge(tmp_path / "base.safetensors", source, output=output)
    merged = load_file(output)
    assert merged[f"{path}.weight"].any()
    assert torch.equal(merged["other.weight"], base["other.weight"])


# What is refused


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("hada_w1_a", "LoHa"),
        ("hada_t2", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("lokr_w2_b", "LoKr"),
        ("lokr_t2", "LoKr"),
        ("magnitude", "DoRA"),
        ("diff", "a difference stored whole"),
        ("diff_b", "a difference stored whole"),
        ("w_norm", "a trained norm"),
        ("b_norm", "a trained norm"),
        ("on_input", "IA3"),
        ("oft_blocks", "OFT"),
        ("oft_diag", "OFT"),
        ("rescale", "OFT"),
        ("a1.weight", "GLoRA"),
        ("bm.weight", "GLoRA"),
        ("bias_indices", "a sparse bias"),
    ],
)
def test_other_kind_is_refused_by_name(part: str, kind: str) -> None:
    key = f"{UNET}.{part}"
    with pytest.raises(UnsupportedError, match=rf"here: {key}: {kind}.* cannot be read yet"):
        decoded({key: torch.zeros(2, 2)})
    with pytest.raises(UnsupportedError, match=rf"here: {key}: {kind}"):
        decoded(module() | {f"{UNET}.weight": torch.zeros(2), key: torch.zeros(2, 2)})


@pytest.mark.parametrize(
    "key",
    [
        f"{UNET}.lora_down.bias",
        f"{UNET}.weight",
        "x",
        ".alpha",
    ],
)
def test_unknown_key_is_named(key: str) -> None:
    with pytest.raises(FormatError, match=f"here: {key}: an unknown key"):
        decoded(module() | {key: torch.zeros(2, 2)})


@pytest.mark.parametrize("name", ["blocks.0.self_attn.q", "model.layers.0.mlp.fc", "v2.3_q"])
def test_names_with_dots_are_read_and_written_with_them(name: str) -> None:
    files = bundle(module(name))
    adapter = decode(files)
    assert list(adapter.updates) == [f"{name}.weight"]
    assert list(encode(adapter).tensors) == list(files.tensors)
    with pytest.raises(UnsupportedError, match="not the flattened name"):
        encode(replace(adapter, filed=None), "kohya")


@pytest.mark.parametrize(
    "name", ["unet.q", "transformer.q", "text_encoder_2.q", "diffusion_model.q"]
)
def test_names_of_other_formats_are_left_to_them(name: str) -> None:
    assert claim(bundle(module(name))) is Sureness.NO
    assert claim(bundle(module() | module(name))) is Sureness.POSSIBLE


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (("lora_up.weight",), "has alpha, lora_down.weight and no lora_up.weight"),
        (("alpha", "lora_down.weight"), "has lora_up.weight and no lora_down.weight"),
        (
            ("lora_down.weight", "lora_up.weight"),
            "has alpha and no lora_down.weight, lora_up.weight",
        ),
    ],
)
def test_half_an_update_is_refused(removed: tuple[str, ...], message: str) -> None:
    tensors = module(TEXT) | module()
    for part in removed:
        del tensors[f"{UNET}.{part}"]
    with pytest.raises(FormatError, match=f"here: {UNET} {message}"):
        decoded(tensors)


@pytest.mark.parametrize(
    ("part", "tensor", "message"),
    [
        ("lora_down.weight", torch.zeros(2), "neither a matrix"),
        ("lora_down.weight", torch.zeros(2, 3, 1, 1, 1, 1), "neither a matrix"),
        ("lora_down.weight", torch.zeros(0, 3), "neither a matrix"),
        ("alpha", torch.zeros(2), "is not a single number"),
        ("alpha", torch.zeros((), dtype=torch.bool), "is not a single number"),
        ("alpha", torch.tensor(math.nan), "is nan"),
        ("alpha", torch.tensor(math.inf).half(), "is inf"),
    ],
)
def test_tensor_that_cannot_be_a_part_is_named(part: str, tensor: Tensor, message: str) -> None:
    with pytest.raises(FormatError, match=rf"here: {UNET}\.{part}: .*{message}"):
        decoded(module() | {f"{UNET}.{part}": tensor})


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_factor_that_is_no_float_is_refused(dtype: torch.dtype) -> None:
    tensor = torch.zeros(2, 3, dtype=dtype)
    with pytest.raises(UnsupportedError, match=rf"here: {UNET}\.lora_down\.weight: is stored as"):
        decoded(module() | {f"{UNET}.lora_down.weight": tensor})


def test_alpha_of_8_bits_is_read_as_the_number_it_is() -> None:
    alpha = torch.tensor(1.5).to(torch.float8_e4m3fn)
    assert lora_of(decoded(module() | {f"{UNET}.alpha": alpha})).scaling.alpha == 1.5


def test_config_beside_the_file_is_of_no_matter() -> None:
    for config in ({"peft_type": "LORA", "r": 64, "lora_alpha": 3}, {"peft_type": 3}, {}):
        adapter = decode(bundle(module(), config=config))
        assert (present(adapter.filed).dialect, lora_of(adapter).scaling.value) == ("kohya", 0.5)
        assert notes(adapter) == [
            ("info", "a config does not belong to this format, and is not used")
        ]
        assert encode(adapter).config is None


def test_file_in_a_folder_of_something_else_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path, module(), {})
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    adapter = loratools.open_adapter(path)
    assert present(adapter.filed).dialect == "kohya"
    assert adapter.companions == ()


KEYS = st.builds(
    "{}.{}".format,
    st.sampled_from([UNET, TEXT, "lora_unet_conv", "lycoris_a", "a.b", ""]),
    st.sampled_from(
        [
            "alpha",
            "lora_down.weight",
            "lora_up.weight",
            "weight",
            "diff",
            "lokr_w1",
            "lora_mid.weight",
        ]
    ),
)


@given(
    shapes=st.dictionaries(KEYS, st.lists(st.integers(0, 3), max_size=5).map(tuple), max_size=4),
    whole=st.booleans(),
)
def test_any_file_is_read_whole_or_refused(shapes: dict[str, tuple[int, ...]], whole: bool) -> None:
    tensors = (module() if whole else {}) | {k: torch.zeros(shape) for k, shape in shapes.items()}
    try:
        adapter = decoded(tensors)
    except LoratoolsError:
        return
    used = [key for update in adapter.updates.values() for key in keys_of(update.delta)]
    assert sorted(used) == sorted(tensors)


# What is written


@st.composite
def files(draw: st.DrawFn) -> dict[str, Tensor]:
    """Files of any kinds, layers, ranks, dtypes and alphas."""
    tensors: dict[str, Tensor] = {}
    for number in range(draw(st.integers(1, 4))):
        sizes = st.integers(1, 5)
        kernel = draw(st.lists(st.sampled_from((1, 3)), max_size=3))
        shape = (draw(sizes), draw(sizes), *kernel)
        dtype = to_torch(draw(st.sampled_from(FLOATS)))
        name = f"lora_unet_blocks_{number}_{draw(st.sampled_from('qkv'))}"
        rank = draw(st.integers(1, 4))
        if draw(st.booleans()):
            tensors |= module(name, shape, rank, alpha=None, dtype=dtype)
        else:
            tensors |= tucker(name, shape, (rank, rank), alpha=None, dtype=dtype)
        if draw(st.booleans()):
            form = draw(st.sampled_from([(-1, 1), (-1,), (1, -1), (-1, 1, 1), (1, -1, 1)]))
            lengths = torch.ones(shape[1 if form[0] == 1 else 0]).reshape(form).to(dtype)
            tensors[f"{name}.dora_scale"] = lengths
        alpha_dtype = draw(st.none() | st.sampled_from(FLOATS))
        if alpha_dtype is not None:
            alpha = torch.tensor(draw(st.floats(-100, 100)), dtype=to_torch(alpha_dtype))
            tensors[f"{name}.alpha"] = alpha.reshape(draw(st.sampled_from([(), (1,)])))
    return tensors


@given(tensors=files())
def test_what_is_read_is_written_again(
    tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Bit for bit, and in the order in which the library filed it."""
    folder = tmp_path_factory.mktemp("laws")
    adapter = loratools.open_adapter(saved(folder, tensors, {"format": "pt"}))
    write_adapter(adapter, folder / "again.safetensors", inputs=[])
    again = loratools.open_adapter(folder / "again.safetensors")
    data = [data_of(folder / f"{name}.safetensors") for name in ("lora", "again")]
    assert data[0] == data[1]
    before, after = present(adapter.filed), present(again.filed)
    assert (after.order, after.metadata) == (before.order, before.metadata)
    assert [(u.delta.kind, u.delta.scaling) for u in again.updates.values()] == [
        (u.delta.kind, u.delta.scaling) for u in adapter.updates.values()
    ]


def data_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_order_is_that_of_the_file(tmp_path: Path) -> None:
    tensors = dict(reversed((module() | module(TEXT)).items()))
    assert list(encode(decoded(tensors)).tensors) == list(tensors)


def test_new_alpha_is_put_before_its_factors() -> None:
    tensors = module(TEXT) | module(alpha=None)
    adapter = with_scaling(decoded(tensors), alpha=4.0)
    expected = list(module(TEXT) | module(alpha=1))
    assert list(encode(adapter).tensors) == expected


@pytest.mark.parametrize(
    ("filed", "alpha", "dtype"),
    [
        (torch.float16, 0.5, torch.float16),
        (torch.float16, 2049.0, torch.float32),
        (torch.float16, 0.1, torch.float64),
        (torch.bfloat16, 3.0, torch.bfloat16),
        (torch.bfloat16, 257.0, torch.float32),
        (torch.float32, 0.1, torch.float64),
        (torch.int64, 3.0, torch.int64),
        (torch.int64, 0.5, torch.float32),
        (torch.float16, 1e300, torch.float64),
    ],
)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_changed_alpha_is_exact_and_as_narrow_as_that_allows(
    tmp_path: Path, filed: torch.dtype, alpha: float, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensors = module() | {f"{UNET}.alpha": torch.ones(shape, dtype=filed)}
    adapter = with_scaling(decoded(tensors), alpha=alpha)
    result = written(adapter, tmp_path / "out.safetensors")[f"{UNET}.alpha"]
    assert (result.dtype, result.shape, result.item()) == (dtype, shape, alpha)


def test_new_alpha_has_the_dtype_of_the_others(tmp_path: Path) -> None:
    tensors = module(TEXT, dtype=torch.float32) | module(alpha=None)
    adapter = with_scaling(decoded(tensors), alpha=4.0)
    assert written(adapter, tmp_path / "a.safetensors")[f"{UNET}.alpha"].dtype == torch.float32
    adapter = with_scaling(decoded(module(alpha=None)), alpha=4.0)
    assert written(adapter, tmp_path / "b.safetensors")[f"{UNET}.alpha"].dtype == torch.float16


@pytest.mark.parametrize(
    ("scaling", "alpha"),
    [
        (Scaling(alpha=6, rank=4, rule="rank", origin="config"), 3),
        (Scaling(alpha=3, rank=4, rule="sqrt_rank", origin="config"), 3),
        (Scaling(alpha=3, rank=4, rule="direct", origin="config"), 6),
        (Scaling(alpha=3, rank=2, rule="rank", origin="config", times=2), 6),
    ],
)
def test_other_rule_becomes_an_alpha_for_the_stored_rank(scaling: Scaling, alpha: float) -> None:
    adapter = decoded(module())
    updates = {t: Update(replace(lora_of(adapter), scaling=scaling)) for t in adapter.updates}
    encoded = encode(replace(adapter, updates=updates))
    assert encoded.tensors[f"{UNET}.alpha"].read().item() == alpha
    assert lora_of(decode(encoded)).scaling.value == scaling.value


def test_missing_alpha_stays_missing_while_the_scaling_is_one() -> None:
    adapter = decoded(module(alpha=None))
    assert encode(adapter).tensors.keys() == module(alpha=None).keys()
    # A truncation to rank 1 that keeps the scaling.
    lora = lora_of(adapter)
    down, up = (Held("", t, "F16") for t in (lora.down.read()[:1], lora.up.read()[:, :1]))
    shorter = replace(lora, down=down, up=up)
    encoded = encode(replace(adapter, updates={f"{UNET}.weight": Update(shorter)}))
    assert encoded.tensors.keys() == module(alpha=None).keys()
    assert lora_of(decode(encoded)).scaling.value == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"replaced": {"x": Replacement(Held("x", torch.zeros(1), "F32"), is_trained=True)}},
            "whole",
        ),
        ({"rows": {"x": ReplacedRows((0,), Held("x", torch.zeros(1, 1), "F32"))}}, "single rows"),
    ],
)
def test_what_the_format_has_no_place_for_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"here: x: .*{message}"):
        encode(replace(decoded(module()), **change))


def test_update_that_the_format_cannot_store_is_named() -> None:
    adapter = decoded(module())
    lora = lora_of(adapter)
    vector, matrix = Held("m", torch.ones(4), "F32"), Held("d", torch.ones(4, 3), "F32")
    target = f"{UNET}.weight"
    for name, update, message in (
        (target, Update(Diff(vector, lora.scaling)), "diff"),
        (target, Update(lora, is_embedding=True), "embedding"),
        (target, Update(lora, fan_in_fan_out=True), "embedding"),
        (f"{UNET}.bias", Update(lora), "not the flattened name"),
        (target, Update(DoRA(Diff(matrix, lora.scaling), vector, "row")), "DoRA"),
        ("unet.proj_in.weight", Update(lora), "not the flattened name"),
    ):
        with pytest.raises(UnsupportedError, match=f"here: {name}: .*{message}"):
            encode(replace(adapter, updates={name: update}))


# Metadata and hashes


def test_metadata_is_kept_and_made_true() -> None:
    metadata = TRAINED | {"ss_network_dim": "16", "ss_tag_frequency": '{"é": 1}', "other": "x"}
    encoded = encode(with_scaling(decoded(module(), metadata), alpha=0.5))
    assert encoded.metadata == metadata | {
        "ss_network_dim": "2",
        "ss_network_alpha": "0.5",
        "sshs_model_hash": "0" * 64,
        "sshs_legacy_hash": "0" * 8,
    }


def test_metadata_that_is_true_keeps_its_spelling() -> None:
    metadata = {"ss_network_dim": "2", "ss_network_alpha": "0.10", "ss_network_args": "{ }"}
    encoded = encode(decoded(module(alpha=0.1), metadata))
    assert {name: encoded.metadata[name] for name in metadata} == metadata


def test_sizes_that_differ_are_dynamic() -> None:
    encoded = encode(decoded(module() | module(TEXT, rank=3, alpha=0.5), TRAINED))
    assert encoded.metadata["ss_network_dim"] == "Dynamic"
    assert encoded.metadata["ss_network_alpha"] == "Dynamic"


def test_arguments_for_convolutions_are_made_true_in_their_own_type() -> None:
    tensors = module() | module("lora_unet_conv", shape=(4, 3, 3, 3), rank=3, alpha=0.5)
    arguments = {"conv_dim": "8", "algo": "lora", "conv_alpha": 4}
    metadata = TRAINED | {"ss_network_args": json.dumps(arguments)}
    encoded = encode(decoded(tensors, metadata))
    assert encoded.metadata["ss_network_dim"] == "2"
    assert encoded.metadata["ss_network_alpha"] == "1.0"
    expected = '{"conv_dim": "3", "algo": "lora", "conv_alpha": 0.5}'
    assert encoded.metadata["ss_network_args"] == expected
    tensors |= module("lora_unet_other", shape=(4, 3, 3, 3), rank=2, alpha=0.5)
    encoded = encode(decoded(tensors, metadata))
    assert json.loads(encoded.metadata["ss_network_args"])["conv_dim"] == "Dynamic"
    assert encoded.metadata["ss_network_dim"] == "2"


def test_file_without_training_metadata_gets_none() -> None:
    for metadata in ({}, {"format": "pt"}):
        encoded = encode(decoded(module(), metadata))
        assert encoded.metadata == metadata
        assert encoded.seal is None


def made_anew(tensors: Mapping[str, Tensor], **fields: Any) -> Bundle:
    """The kohya file of an adapter that was not read from one."""
    return encode(replace(decoded(tensors), filed=None, **fields), "kohya")


def test_new_file_says_its_ranks_and_alphas_and_nothing_of_a_training() -> None:
    """Which program trained it and for which architecture, nobody knows; it has hashes."""
    encoded = made_anew(module(alpha=0.5))
    assert encoded.metadata == {
        "ss_network_dim": "2",
        "ss_network_alpha": "0.5",
        "sshs_model_hash": "0" * 64,
        "sshs_legacy_hash": "0" * 8,
    }
    assert decode(encoded).notes == ()
    assert decode(encoded).provenance.trainer is None
    assert made_anew(module() | module(TEXT, rank=3)).metadata["ss_network_dim"] == "Dynamic"


def test_new_file_names_the_base_that_is_known() -> None:
    base = Provenance(base="ann/diffusion", base_hash="ab12", family="sd_v1", task="X")
    assert decode(made_anew(module(), provenance=base)).provenance == Provenance(
        base="ann/diffusion", base_hash="ab12"
    )


def test_new_file_has_an_alpha_for_each_module() -> None:
    """LyCORIS fails on a module without one, and what its scaling is, readers should not guess."""
    tensors = made_anew(module(alpha=None) | module(TEXT, alpha=3)).tensors
    assert tensors[f"{UNET}.alpha"].read() == 2
    assert tensors[f"{TEXT}.alpha"].read() == 3


def test_metadata_that_is_carried_along_counts_more() -> None:
    """A conversion keeps the entries of a training, with the ranks of the tensors."""
    carried = Filed("kohya", metadata={"ss_network_module": "networks.lora_flux", "other": "x"})
    encoded = encode(replace(decoded(module()), filed=carried))
    assert encoded.metadata["ss_network_module"] == "networks.lora_flux"
    assert encoded.metadata["other"] == "x"
    assert encoded.metadata["ss_network_dim"] == "2"


def published_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """As sd-scripts computes them: of the bytes the library makes with the training's metadata."""
    training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    file = io.BytesIO(safetensors.torch.save(dict(tensors), training))
    length = int.from_bytes(file.read(8), "little")
    file.seek(8 + length)
    model = hashlib.sha256(file.read()).hexdigest()
    file.seek(0x100000)
    legacy = hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    return {"sshs_model_hash": model, "sshs_legacy_hash": legacy}


@pytest.mark.parametrize("size", [100, 500, 530, 1100])
@pytest.mark.parametrize("metadata", [TRAINED, {"sshs_model_hash": "?", "title": "x"}])
def test_hashes_are_those_that_are_published(
    tmp_path: Path, size: int, metadata: dict[str, str]
) -> None:
    """Files that end before, inside and after the legacy hash's 64 kB, with other metadata too."""
    tensors = module(shape=(size, 1000)) | module(TEXT, dtype=torch.float32, shape=(3, 3, 3, 3))
    source = saved(tmp_path, tensors, metadata | {"sshs_legacy_hash": "stale", "zé": "\n"})
    output = tmp_path / "out.safetensors"
    result = written(loratools.open_adapter(source), output)
    found = metadata_of(output)
    expected = published_hashes(result, found)
    assert {name: found[name] for name in expected} == expected
    assert found["zé"] == "\n"
    is_small = output.stat().st_size < 2**20
    assert (found["sshs_legacy_hash"] == "e3b0c442") == is_small


def test_hash_of_the_modelspec_is_that_of_the_data_where_there_is_one(tmp_path: Path) -> None:
    for name, metadata in (("alone", {}), ("trained", TRAINED)):
        output = tmp_path / f"{name}.safetensors"
        written(decoded(module(), metadata | {"modelspec.hash_sha256": "0xstale"}), output)
        found = metadata_of(output)
        expected = "0x" + hashlib.sha256(data_of(output)).hexdigest()
        assert found["modelspec.hash_sha256"] == expected
        assert ("sshs_model_hash" in found) == bool(metadata)


def test_legacy_hash_reaches_into_a_header_that_is_longer_than_a_megabyte(tmp_path: Path) -> None:
    metadata = TRAINED | {"ss_tag_frequency": "x" * 2**20}
    output = tmp_path / "out.safetensors"
    written(decoded(module(shape=(300, 300)), metadata), output)
    found = metadata_of(output)
    training = {k: v for k, v in sorted(found.items()) if k.startswith("ss_")}
    content = output.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    text = json.dumps(header | {"__metadata__": training}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    alone = len(text).to_bytes(8, "little") + text + data_of(output)
    expected = hashlib.sha256(alone[0x100000:0x110000]).hexdigest()[:8]
    assert found["sshs_legacy_hash"] == expected
