"""LoRAs under the names of FLUX.1's original checkpoint, and Black Forest Labs' control LoRAs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import loratools
from loratools.adapter import Adapter
from loratools.errors import FormatError, MatchError, ShapeMismatchError
from loratools.formats import decode
from tests.adapters import effects
from tests.formats.kohya.modules import bundle
from tests.narrowing import present

QKV, NORM = "double_blocks.0.img_attn.qkv", "double_blocks.0.img_attn.norm.key_norm.scale"
MODULES = {QKV: (12, 4), "img_in": (4, 128), "final_layer.linear": (2, 4)}


def control() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    tensors = {NORM: torch.randn(2, generator=random)}
    for name, (rows, columns) in MODULES.items():
        tensors |= {
            f"{name}.lora_A.weight": torch.randn(2, columns, generator=random),
            f"{name}.lora_B.weight": torch.randn(rows, 2, generator=random),
            f"{name}.lora_B.bias": torch.randn(rows, generator=random),
        }
    return tensors


def decoded(tensors: dict[str, Tensor]) -> Adapter:
    return decode(bundle(tensors))


def test_every_tensor_of_a_control_lora_has_its_place() -> None:
    tensors = control()
    adapter = decoded(tensors)
    assert present(adapter.filed).dialect == "bfl"
    found = effects(adapter)
    assert found.keys() == {f"{n}.{p}" for n in MODULES for p in ("weight", "bias")}
    for name in MODULES:
        down, up, bias = (
            tensors[f"{name}.lora_{end}"] for end in ("A.weight", "B.weight", "B.bias")
        )
        torch.testing.assert_close(
            found[f"{name}.weight"], up.double() @ down.double(), rtol=0, atol=0
        )
        assert torch.equal(found[f"{name}.bias"].flatten(), bias.double())
    assert torch.equal(adapter.replaced[NORM].source.read(), tensors[NORM])
    assert adapter.replaced[NORM].is_trained


def test_bias_is_added_with_the_scaling_of_the_factors_beside_it() -> None:
    tensors = control() | {f"{QKV}.alpha": torch.tensor(1.0)}
    found = effects(decoded(tensors))
    expected = tensors[f"{QKV}.lora_B.bias"].double() / 2
    assert torch.equal(found[f"{QKV}.bias"].flatten(), expected)


def test_image_with_more_channels_is_noted_and_merges_into_a_padded_base(tmp_path: Path) -> None:
    tensors = control()
    (note,) = (n.message for n in decoded(tensors).notes if n.message.startswith("img_in"))
    assert "128 inputs, where FLUX.1 has 64" in note
    assert "64 columns of zeros" in note
    save_file(tensors, tmp_path / "control.safetensors")
    base = {f"{name}.weight": torch.randn(shape) for name, shape in MODULES.items()}
    base |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in MODULES.items()}
    base |= {NORM: torch.ones(2), "img_in.weight": torch.randn(4, 64)}
    save_file(base, tmp_path / "base.safetensors")
    with pytest.raises(
        MatchError, match=r"img_in\.weight \[4, 128\]: the base has it with another"
    ):
        loratools.merge(
            tmp_path / "base.safetensors",
            tmp_path / "control.safetensors",
            output=tmp_path / "out.safetensors",
        )
    base["img_in.weight"] = torch.nn.functional.pad(base["img_in.weight"], (0, 64))
    save_file(base, tmp_path / "base.safetensors")
    report = loratools.merge(
        tmp_path / "base.safetensors",
        tmp_path / "control.safetensors",
        output=tmp_path / "out.safetensors",
    )
    assert len(report.plan.accounting.applied) == len(tensors)


def test_file_that_mixes_kohyas_parts_with_peft_s_is_read_module_by_module() -> None:
    block = "double_blocks.1.img_attn.proj"
    kohyas = {f"{block}.lora_down.weight": (2, 4), f"{block}.lora_up.weight": (4, 2)}
    pefts = {f"{QKV}.lora_A.weight": (2, 4), f"{QKV}.lora_B.weight": (12, 2)}
    adapter = decoded({key: torch.ones(shape) for key, shape in (pefts | kohyas).items()})
    assert list(adapter.updates) == [f"{QKV}.weight", f"{block}.weight"]


def test_lora_without_controls_has_no_note_on_channels() -> None:
    tensors = {k: t for k, t in control().items() if k != NORM and not k.endswith("bias")}
    assert not any("img_in" in note.message.split(":")[0] for note in decoded(tensors).notes)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"txt_in.lora_B.bias": (4,)}, FormatError, "txt_in.lora_B.bias: a bias of factors that"),
        ({f"{QKV}.lora_B.bias": (11,)}, ShapeMismatchError, "12 numbers are expected"),
        ({"other.lora_A.weight": (2, 4)}, FormatError, "other.lora_A.weight: an unknown key"),
        ({"double_blocks.0.img_mod.lin.weight": (2, 4)}, FormatError, "img_mod.* an unknown key"),
        ({"txt_in.lora_A.weight": (2, 4)}, FormatError, "txt_in has .* half an update"),
    ],
)
def test_what_cannot_be_read_is_named(
    change: dict[str, tuple[int, ...]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        decoded(control() | {key: torch.ones(shape) for key, shape in change.items()})
