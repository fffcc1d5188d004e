"""`loratools convert` and `loratools formats`: what they print, write and refuse."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import loratools
from loratools import formats
from loratools.adapter import Adapter
from loratools.describing.formats import all_formats
from loratools.formats.mlx import write as mlx_write
from loratools.io.bundle import Bundle
from tests.adapters import assert_same, lora_of
from tests.cli.results import refused
from tests.cli.test_imports import codes_without_torch
from tests.e2e.commands import FIXTURES, PLAIN, run_here
from tests.merged import write_base
from tests.narrowing import present

ADAPTERS = FIXTURES / "adapters"
KOHYA = FIXTURES / "kohya" / "sd15-locon" / "sd15-locon.safetensors"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("adapter", "to", "out"), [(PLAIN, "peft", "x"), (KOHYA, "kohya", "x.safetensors")]
)
def test_an_adapter_in_that_format_already_is_written_anew_and_says_so(
    adapter: Path, to: str, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_here(capsys, "convert", adapter, "-o", out, "--to", to)
    assert (result.code, "every update is exact" in result.out) == (0, True)
    assert f"in the {to} format already" in result.err
    assert_same(loratools.open_adapter(adapter), loratools.open_adapter(out))


def test_an_output_is_what_the_format_has(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_here(capsys, "convert", PLAIN, "-o", "x.safetensors", "--to", "peft")
    assert refused(result, 1, "the output is a folder, and this is the name of a file; name it ")
    assert refused(
        run_here(capsys, "convert", KOHYA, "-o", "x", "--to", "kohya"), 1, "name it x.saf"
    )
    for name in ("x.bin", "x.SAFETENSORS"):
        result = run_here(capsys, "convert", KOHYA, "-o", name, "--to", "diffusers")
        assert refused(result, 1, f"{name}: the output is a folder or a safetensors file; name it ")
    result = run_here(capsys, "convert", PLAIN, "-o", "hf://ann/x", "--to", "mlx")
    assert refused(result, 1, "hf://ann/x: an output is a path here")
    assert [*workplace.iterdir()] == []


def test_a_format_that_is_not_written_is_refused_with_those_that_are(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(run_here(capsys, "convert", PLAIN, "-o", "x", "--to", "sam"), 2, "'peft'")
    with pytest.raises(loratools.OptionError, match=r"to is one of .*peft, not 'sam'"):
        loratools.convert(PLAIN, output="x", to="sam")
    with pytest.raises(loratools.OptionError, match=r"dtype is one of float16, .* not 'int8'"):
        loratools.convert(PLAIN, output="x", to="peft", dtype="int8")
    assert [*workplace.iterdir()] == []


def test_what_a_format_cannot_hold_is_named_and_can_be_dropped(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_here(capsys, "convert", KOHYA, "-o", "x", "--to", "peft")
    says = "cannot hold any of the 26 targets: .* and 23 more: of 2 models, .*--drop"
    assert refused(result, 1, says)
    assert [*workplace.iterdir()] == []
    result = run_here(capsys, "convert", KOHYA, "-o", "x", "--to", "peft", "--drop", "lora_te_*")
    assert (result.code, "every update is exact" in result.out) == (0, True)
    assert "left out by --drop: lora_te_text_model_encoder_layers_0_mlp_fc1.weight" in result.out
    assert all(
        name.startswith(("down", "up", "mid")) for name in loratools.open_adapter("x").updates
    )


def test_a_glob_of_what_to_drop_that_matches_nothing_is_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = run_here(capsys, "convert", PLAIN, "-o", "x", "--to", "peft", "--drop", "q_proj")
    assert refused(result, 1, r"--drop 'q_proj' matches no target; did you mean '\*.q_proj'")
    result = run_here(capsys, "convert", PLAIN, "-o", "x", "--to", "peft", "--drop", "*")
    assert refused(result, 1, "--drop leaves nothing to convert")


def test_a_dry_run_compares_what_it_would_write(workplace: Path) -> None:
    made = loratools.convert(PLAIN, to="peft", dtype="bfloat16")
    dry = made.report
    wet = loratools.convert(PLAIN, output="x", to="peft", dtype="bfloat16")
    assert dry.comparison == wet.comparison
    assert 0 < present(dry.comparison.worst)[1] < 2.0**-8
    assert (dry.written, present(wet.written).path) == (None, "x")


def test_tensors_that_keep_their_bytes_need_no_torch(tmp_path: Path) -> None:
    commands = [
        f"convert {PLAIN} --to peft -o peft",
        f"convert {KOHYA} --to kohya -o kohya.safetensors",
        f"convert {KOHYA} --to kohya -o dropped.safetensors --drop lora_te_*",
    ]
    codes = codes_without_torch(commands, tmp_path)
    assert set(codes.values()) == {0}, codes


#: An adapter of PEFT, another format, and what of it has no place there, with a part of the reason.
SPECIAL = [
    ("dora", "mlx", "1 of 16 targets", "model.embed_tokens.weight: .* a whole tensor"),
    ("lm-head", "mlx", "1 of 6 targets", "lm_head.weight: .* a whole tensor"),
    ("trainable-tokens", "mlx", "1 of 11 targets", "model.embed_tokens.weight: .* single rows"),
    ("gpt2-bias-all", "mlx", "any of the 15 targets", "MLX and PEFT call it so"),
    ("gpt2-conv1d", "kohya", "any of the 8 targets", "no matrix of an image model that is known"),
]


@pytest.mark.parametrize(("name", "to", "count", "reason"), SPECIAL)
def test_what_only_peft_has_is_refused_by_name(
    name: str, to: str, count: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_here(capsys, "convert", ADAPTERS / name, "-o", "x", "--to", to)
    assert refused(result, 1, f"the {to} format cannot hold {count}.*{reason}")


@pytest.mark.parametrize(
    ("name", "drop"), [("dora", "model.embed_tokens"), ("trainable-tokens", "*.embed_tokens")]
)
def test_what_is_dropped_is_named_and_all_else_is_there(
    name: str, drop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_here(
        capsys, "convert", ADAPTERS / name, "-o", "x", "--to", "mlx", "--drop", drop, "--json"
    )
    report = json.loads(result.out)
    before = loratools.open_adapter(ADAPTERS / name)
    targets = {*before.updates, *before.replaced, *before.rows}
    assert report["dropped"] == ["model.embed_tokens.weight"]
    assert report["names"] == {target: target for target in targets - {*report["dropped"]}}
    assert set(loratools.open_adapter("x").updates) == set(report["names"].values())
    assert report["error"] == 0


def test_one_rank_and_one_scale_are_made_where_a_format_has_but_one() -> None:
    report = loratools.convert(ADAPTERS / "rslora-patterns", output="x", to="mlx")
    comparison, found = report.comparison, loratools.open_adapter("x")
    assert (len(comparison.folded), len(comparison.padded)) == (35, 20)
    # Folding is rounded once, to float32.
    assert 0 < present(comparison.worst)[1] <= 2.0**-24
    assert len({lora_of(update).rank for update in found.updates.values()}) == 1
    assert {lora_of(update).scaling.value for update in found.updates.values()} == {1.0}


def test_the_names_of_a_base_settle_what_a_flattened_name_was(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    factors = {"lora_down": torch.ones(1, 3), "lora_up": torch.ones(4, 1)}
    save_file(
        {f"lora_unet_new_block_0_to_q.{k}.weight": v for k, v in factors.items()}, "a.safetensors"
    )
    write_base(
        workplace / "base", {"model.diffusion_model.new_block.0.to_q.weight": torch.ones(4, 3)}
    )
    convert = ["convert", "a.safetensors", "-o", "x.safetensors", "--to", "comfyui"]
    assert refused(run_here(capsys, *convert), 1, "has this flattened name; see --base")
    assert run_here(capsys, *convert, "--base", "base").code == 0
    names = [*loratools.open_adapter("x.safetensors").updates]
    assert names == ["diffusion_model.new_block.0.to_q.weight"]


def test_the_metadata_is_true_of_the_new_file(workplace: Path) -> None:
    """The training is told as before; ranks, alphas and hashes are those of the new tensors."""
    name = "lora_unet_double_blocks_0_img_mod_lin"
    factors = {"lora_down": torch.ones(2, 3), "lora_up": torch.ones(4, 2)}
    training = {"ss_network_dim": "99", "ss_tag_frequency": "{}", "modelspec.title": "a cat"}
    stale = {"sshs_model_hash": "0" * 64, "modelspec.hash_sha256": "0x" + "0" * 64, "format": "pt"}
    tensors = {f"{name}.{k}.weight": v for k, v in factors.items()}
    tensors[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(tensors, "a.safetensors", training | stale)
    loratools.convert("a.safetensors", output="x.safetensors", to="comfyui")
    with safe_open("x.safetensors", "pt") as file:
        metadata = file.metadata()
    data = Path("x.safetensors").read_bytes()
    digest = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    assert metadata["sshs_model_hash"] == digest
    assert metadata["modelspec.hash_sha256"] == f"0x{digest}"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("2", "1")
    assert (metadata["ss_tag_frequency"], metadata["modelspec.title"]) == ("{}", "a cat")
    told = json.loads(metadata["loratools"])
    assert told == {"converted_from": "kohya", "version": loratools.__version__}
    report = loratools.convert("x.safetensors", output="y", to="peft")
    (note,) = (note for note in report.notes if "ss_" in note)
    assert "modelspec.title" in note
    config = json.loads(Path("y/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 1)


@pytest.mark.parametrize("scale", [1.001, 2.0])
def test_a_writer_that_changes_an_update_publishes_nothing(
    scale: float, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even by a thousandth, which a look at the sizes of updates would not show."""

    def wrong(adapter: Adapter) -> Bundle:
        target, update = next(iter(adapter.updates.items()))
        scaling = present(update.delta.scaling)
        delta = update.delta.with_scaling(replace(scaling, alpha=scaling.alpha * scale))
        updates = {**adapter.updates, target: replace(update, delta=delta)}
        return encode(replace(adapter, updates=updates))

    encode = mlx_write.encode
    monkeypatch.setattr(mlx_write, "encode", wrong)
    for output in ("x", None):
        with pytest.raises(loratools.UnsupportedError, match="does not mean the same"):
            loratools.convert(PLAIN, output=output, to="mlx")
    assert [*workplace.iterdir()] == []


def test_two_targets_that_would_have_one_name_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    factors = {"lora_down": torch.ones(2, 3), "lora_up": torch.ones(4, 2)}
    names = ("lora_unet_blocks_0_cross_attn_k", "lora_unet__blocks_0_cross_attn_k")
    tensors = {f"{n}.{k}.weight": v.clone() for n in names for k, v in factors.items()}
    save_file(tensors, "a.safetensors")
    result = run_here(capsys, "convert", "a.safetensors", "-o", "x.safetensors", "--to", "comfyui")
    assert refused(result, 1, f"{names[0]}.weight: would be diffusion_model.* as {names[1]}")


def test_embeddings_that_a_file_carries_are_carried_or_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "lora_unet_double_blocks_0_img_mod_lin"
    tensors = {
        f"{name}.lora_down.weight": torch.ones(2, 3),
        f"{name}.lora_up.weight": torch.ones(4, 2),
    }
    save_file(tensors | {"bundle_emb.cat.t5": torch.ones(5)}, "a.safetensors")
    loratools.convert("a.safetensors", output="x.safetensors", to="comfyui")
    with safe_open("x.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("bundle_emb.cat.t5"), torch.ones(5))
    to_peft = ["convert", "a.safetensors", "-o", "y", "--to", "peft"]
    assert refused(run_here(capsys, *to_peft), 1, "bundle_emb.cat.t5: an embedding")
    result = run_here(capsys, *to_peft, "--drop", "bundle_emb.*")
    assert (result.code, "left out by --drop: bundle_emb.cat.t5" in result.out) == (0, True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_all_tensors_but_alphas_get_the_dtype(dtype: str) -> None:
    loratools.convert(KOHYA, output="x.safetensors", to="kohya", dtype=dtype)
    before, after = loratools.open_adapter(KOHYA), loratools.open_adapter("x.safetensors")
    for target, update in after.updates.items():
        assert {str(source.read().dtype) for source in update.delta.sources} == {f"torch.{dtype}"}
        alphas = [
            present(present(u.delta.scaling).source) for u in (update, before.updates[target])
        ]
        assert alphas[0].dtype == alphas[1].dtype
        assert alphas[0].read() == alphas[1].read()


def test_formats_are_listed_as_they_say_of_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {row.name: row for row in all_formats().rows}
    text = run_here(capsys, "formats").out
    found = json.loads(run_here(capsys, "formats", "--json").out)["formats"]
    assert [row["name"] for row in found] == list(listed)
    for dialect in formats.dialects():
        row = listed[dialect.name]
        assert row.reads, "a dialect says which kinds it reads"
        assert row.writes == () or formats.can_write(dialect)
        assert set(row.writes) <= set(row.reads)
        assert row.merges is (dialect.name != "control_lora"), "a ControlNet has no base"
        assert f"\n{dialect.name} " in text


def test_counts_are_in_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    drop = ("--drop", "*.mlp.*", "--drop", "*.layers.[1-9].*", "--drop", "*.[kvo]_proj")
    result = run_here(
        capsys, "convert", PLAIN, "--dry-run", "--to", "mlx", "--dtype", "float16", *drop
    )
    assert "peft → mlx: 1 target\n" in result.out
    assert "read back: 0 updates exact, 1 rounded" in result.out


def test_numbers_that_a_dtype_cannot_hold_are_refused_as_such(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "transformer.transformer_blocks.0.img_mod.1.lora_"
    save_file(
        {f"{name}A.weight": torch.ones(2, 4) * 1e5, f"{name}B.weight": torch.ones(4, 2)},
        "a.safetensors",
    )
    result = run_here(
        capsys, "convert", "a.safetensors", "-o", "x", "--to", "diffusers", "--dtype", "float16"
    )
    assert refused(result, 1, f"{name}A.weight: has numbers that are too large for F16")
    assert [path.name for path in workplace.iterdir()] == ["a.safetensors"]


def test_an_assumed_alpha_is_noted_before_another_format_states_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "model.layers.0.self_attn.q_proj"
    save_file({f"{name}.A": torch.ones(2, 4), f"{name}.B": torch.ones(4, 2)}, "a.safetensors")
    keys = ("--keys", "up={target}.B", "--keys", "down={target}.A")
    result = run_here(capsys, "convert", "a.safetensors", *keys, "--dry-run", "--to", "peft")
    assert "no alpha, so the scaling is taken as 1" in result.err
    said = run_here(
        capsys, "convert", "a.safetensors", *keys, "--scale", "1", "--dry-run", "--to", "peft"
    )
    assert (said.code, said.err) == (0, "")


def test_the_same_reason_is_told_once_for_all_targets(capsys: pytest.CaptureFixture[str]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for block in range(1, 9):
        name = f"lora_unet_mid_block_attentions_0_transformer_blocks_{block}_attn1_to_q"
        tensors |= {
            f"{name}.lora_down.weight": torch.ones(2, 4),
            f"{name}.lora_up.weight": torch.ones(4, 2),
            f"{name}.dora_scale": torch.ones(1, 4),
        }
    save_file(tensors, "a.safetensors")
    result = run_here(capsys, "convert", "a.safetensors", "--dry-run", "--to", "diffusers")
    assert refused(result, 1, "any of the 8 targets: .* and 5 more: PEFT has a magnitude for each")
    assert result.err.count("a magnitude") == 1


def test_all_whole_tensors_that_a_format_cannot_hold_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "model.layers.0.self_attn"
    tensors = {
        f"base_model.model.{name}.q_proj.lora_A.weight": torch.ones(2, 4),
        f"base_model.model.{name}.q_proj.lora_B.weight": torch.ones(4, 2),
        f"base_model.model.{name}.k_proj.weight": torch.ones(4, 4),
        f"base_model.model.{name}.v_proj.weight": torch.ones(4, 4),
    }
    Path("a").mkdir()
    save_file(tensors, "a/adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    saved = {"modules_to_save": ["k_proj", "v_proj"]}
    Path("a/adapter_config.json").write_text(json.dumps(config | saved))
    result = run_here(capsys, "convert", "a", "--dry-run", "--to", "mlx")
    assert refused(result, 1, "k_proj.weight, .*v_proj.weight: MLX has no place for a whole tensor")


def write_flux(path: Path) -> dict[str, torch.Tensor]:
    """An adapter of ComfyUI for a fused weight of FLUX.1 and for one with swapped halves."""
    shapes = {"double_blocks.0.img_attn.qkv": 12, "final_layer.adaLN_modulation.1": 8}
    shapes["single_blocks.0.linear1"], shapes["double_blocks.0.img_mod.lin"] = 28, 24
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for name, rows in shapes.items():
        down = torch.randint(-2, 3, (2, 4), generator=random)
        up = torch.randint(-2, 3, (rows, 2), generator=random)
        tensors[f"diffusion_model.{name}.lora_A.weight"] = down.float()
        tensors[f"diffusion_model.{name}.lora_B.weight"] = up.float()
        tensors[f"diffusion_model.{name}.alpha"] = torch.tensor(3.0)
    save_file(tensors, path)
    return tensors


def test_fused_weights_are_cut_and_their_parts_fused_again(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = write_flux(workplace / "a.safetensors")
    result = run_here(capsys, "convert", "a.safetensors", "-o", "x", "--to", "diffusers")
    assert "comfyui → diffusers: 4 targets, 9 in the other layout" in result.out
    assert "read back: every update is exact" in result.out
    parts = loratools.open_adapter("x")
    value = lora_of(parts.updates["transformer.transformer_blocks.0.attn.to_k.weight"])
    up = before["diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight"]
    assert torch.equal(value.up.read(), up[4:8])
    assert (value.rank, value.scaling.value) == (2, 1.5)
    report = loratools.convert("x", output="y.safetensors", to="comfyui")
    assert report.names["transformer.norm_out.linear.weight"] == (
        "diffusion_model.final_layer.adaLN_modulation.1.weight",
    )
    again = loratools.open_adapter("y.safetensors")
    for name, update in loratools.open_adapter("a.safetensors").updates.items():
        for one, other in zip(update.delta.sources, again.updates[name].delta.sources, strict=True):
            assert torch.equal(one.read(), other.read())


def test_the_report_has_several_names_of_a_target_as_a_list(workplace: Path) -> None:
    write_flux(workplace / "a.safetensors")
    report = loratools.convert("a.safetensors", to="diffusers").report
    names = report.to_json()["names"]
    block = "transformer.transformer_blocks.0"
    assert names["diffusion_model.double_blocks.0.img_attn.qkv.weight"] == [
        f"{block}.attn.to_{part}.weight" for part in "qkv"
    ]
    modulation = "diffusion_model.double_blocks.0.img_mod.lin.weight"
    assert names[modulation] == f"{block}.norm1.linear.weight"


def test_a_base_of_another_model_is_refused_and_named(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_flux(workplace / "a.safetensors")
    unet = ("input_blocks.0.0", "input_blocks.11.0.in_layers.2", "middle_block.0.in_layers.2")
    write_base(
        workplace / "base",
        {f"model.diffusion_model.{n}.weight": torch.ones(4, 4, 3, 3) for n in unet},
    )
    convert = ["convert", "a.safetensors", "-o", "x", "--to", "diffusers", "--base", "base"]
    result = run_here(capsys, *convert)
    assert refused(
        result, 1, "a module of .*FLUX.1.*, and the base is Stable Diffusion 1 or 2, original"
    )
    assert not Path("x").exists()


def test_pefts_format_has_the_names_of_the_base(workplace: Path) -> None:
    write_flux(workplace / "a.safetensors")
    sizes = {"img_attn.qkv": (12, 4), "img_mod.lin": (24, 4)}
    base = {f"double_blocks.0.{name}.weight": torch.ones(shape) for name, shape in sizes.items()}
    base["single_blocks.0.linear1.weight"] = torch.ones(28, 4)
    base["final_layer.adaLN_modulation.1.weight"] = torch.ones(8, 4)
    write_base(workplace / "base", base)
    loratools.convert("a.safetensors", output="parts", to="diffusers")
    loratools.convert("parts", output="x", to="peft", base="base")
    assert set(loratools.open_adapter("x").updates) == set(base)
    loratools.convert("x", output="same", to="peft", base="base")
    assert_same(loratools.open_adapter("x"), loratools.open_adapter("same"))
