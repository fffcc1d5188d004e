"""A state dict with home-made layers merges to the model without them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import loratools
from loratools.cli import cli
from loratools.errors import FormatError, OptionError
from tests.reference import rounded

KEYS = "up={target}.B down={target}.A base={target}.layer"


def state_dict(inside: str = ".layer", dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Two home-made layers, `fc1` and `net.fc2`, which store transposes, and other tensors."""
    torch.manual_seed(0)
    shapes = {
        f"fc1{inside}.weight": (6, 5), f"fc1{inside}.bias": (6,), "fc1.A": (5, 2), "fc1.B": (2, 6),
        f"net.fc2{inside}.weight": (4, 6), "net.fc2.A": (6, 3), "net.fc2.B": (3, 4),
        "norm.weight": (6,), "encoder.layer.weight": (3, 3),
    }  # fmt: skip
    tensors = {key: torch.randn(shape, dtype=dtype) for key, shape in shapes.items()}
    return tensors | {"steps": torch.tensor([7])}


def expected(tensors: dict[str, Any], inside: str, scale: float) -> dict[str, Any]:
    """The clean model, by the formula."""
    found = {
        k.replace(f"{inside}.", ".", 1): v for k, v in tensors.items() if k[-2:] not in (".A", ".B")
    }
    found["encoder.layer.weight"] = tensors["encoder.layer.weight"]
    found.pop("encoder.weight", None)
    for module in ("fc1", "net.fc2"):
        weight = tensors[f"{module}{inside}.weight"]
        product = tensors[f"{module}.A"].double() @ tensors[f"{module}.B"].double()
        found[f"{module}.weight"] = rounded(weight.double() + scale * product.T, weight.dtype)
    return found


@pytest.mark.parametrize("inside", [".layer", ""])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_dict_that_holds_its_base_merges_to_the_clean_model(
    tmp_path: Path, inside: str, dtype: torch.dtype
) -> None:
    tensors = state_dict(inside, dtype)
    path, output = tmp_path / "trained.safetensors", tmp_path / "clean.safetensors"
    save_file(tensors, path)
    told = {"keys": KEYS.replace(".layer", inside), "scale": "0.5"}
    report = loratools.merge(path, [], output=output, dialect_options=told)
    clean = load_file(output)
    wanted = expected(tensors, inside, 0.5)
    assert clean.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(clean[name], value, rtol=2**-23, atol=2**-23)
    assert len(report.plan.accounting.applied) == 4
    assert set(report.plan.accounting.inert) == {
        f"0: {k}" for k in tensors if k[-2:] not in (".A", ".B")
    }


def test_weight_that_is_named_itself_is_the_clean_weight(tmp_path: Path) -> None:
    """As torch's parametrizations store it, beside a bias that keeps its name."""
    torch.manual_seed(0)
    inside = "fc1.parametrizations.weight"
    tensors = {
        f"{inside}.original": torch.randn(6, 5),
        f"{inside}.0.lora_A": torch.randn(2, 5),
        f"{inside}.0.lora_B": torch.randn(6, 2),
        "fc1.bias": torch.randn(6),
    }
    save_file(tensors, tmp_path / "trained.safetensors")
    base = "{target}.parametrizations.weight"
    keys = f"up={base}.0.lora_B down={base}.0.lora_A base={base}.original"
    output = tmp_path / "clean.safetensors"
    told = {"keys": keys}
    loratools.merge(tmp_path / "trained.safetensors", [], output=output, dialect_options=told)
    clean = load_file(output)
    assert sorted(clean) == ["fc1.bias", "fc1.weight"]
    product = tensors[f"{inside}.0.lora_B"].double() @ tensors[f"{inside}.0.lora_A"].double()
    wanted = (tensors[f"{inside}.original"].double() + product).float()
    torch.testing.assert_close(clean["fc1.weight"], wanted, rtol=2**-23, atol=2**-23)


def test_weight_in_the_file_says_how_factors_of_a_high_rank_are_stored(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = {"a.A": torch.randn(4, 2), "a.B": torch.randn(2, 4)}
    weight = torch.randn(2, 2)
    wanted = (weight.double() + plain["a.B"].double() @ plain["a.A"].double()).float()
    for factors in (plain, {key: value.T.contiguous() for key, value in plain.items()}):
        save_file(factors | {"a.weight": weight}, tmp_path / "trained.safetensors")
        told = {"keys": "up={target}.B down={target}.A base={target}"}
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        loratools.merge(tmp_path / "trained.safetensors", [], output=output, dialect_options=told)
        found = load_file(output)["a.weight"]
        torch.testing.assert_close(found, wanted, rtol=2**-22, atol=2**-22)


def test_folder_and_command_give_the_same_bytes_as_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    folder.mkdir()
    save_file(state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "home"}))
    options = [option for pair in KEYS.split() for option in ("--keys", pair)]
    outputs = tmp_path / "file.safetensors", tmp_path / "folder"
    for base, output in zip((folder / "model.safetensors", folder), outputs, strict=True):
        run = CliRunner().invoke(cli, ["merge", str(base), "-o", str(output), *options])
        assert run.exit_code == 0, run.output
    assert (outputs[1] / "config.json").exists()
    assert outputs[0].read_bytes() == (outputs[1] / "model.safetensors").read_bytes()


def test_other_verbs_write_the_model_in_the_file_unchanged(tmp_path: Path) -> None:
    tensors = state_dict()
    save_file(tensors, tmp_path / "trained.safetensors")
    output = tmp_path / "stronger.safetensors"
    loratools.rescale(
        tmp_path / "trained.safetensors",
        output=output,
        rescaling=loratools.Rescaling(strength=2),
        dialect_options={"keys": KEYS},
    )
    found = load_file(output)
    assert found.keys() == tensors.keys()
    for key, value in tensors.items():
        assert torch.equal(found[key], value * 2 if key.endswith(".B") else value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"fc1.layer.weight": None},
            "fc1: has factors, and no weight inside, as base={target}",
        ),
        ({"fc1.weight": torch.ones(2)}, r"fc1\.\S*weight and fc1\.\S*weight are both fc1\.weight"),
        (dict.fromkeys(["fc1.A", "fc1.B", "net.fc2.A", "net.fc2.B"]), "no key fits up={target}"),
    ],
)
def test_file_without_a_whole_model_is_refused(tmp_path: Path, changed: Any, message: str) -> None:
    tensors = {k: v for k, v in (state_dict() | changed).items() if v is not None}
    path, output = tmp_path / "trained.safetensors", tmp_path / "clean.safetensors"
    save_file(tensors, path)
    with pytest.raises(FormatError, match=message) as raised:
        loratools.merge(path, [], output=output, dialect_options={"keys": KEYS})
    assert str(path) in str(raised.value)
    assert not output.exists()


def test_merge_without_an_adapter_needs_to_be_told_where_the_base_is(tmp_path: Path) -> None:
    path = tmp_path / "trained.safetensors"
    save_file(state_dict(), path)
    keys = KEYS.rpartition(" ")[0]
    with pytest.raises(OptionError, match=r"no adapter to merge; .* as .*base=PATTERN.* says"):
        loratools.merge(path, [], output=None, dialect_options={"keys": keys})
    run = CliRunner().invoke(cli, ["merge", str(path), "--dry-run", "--keys", keys])
    assert run.exit_code == 2
    assert "Missing argument 'ADAPTER...'" in run.output
