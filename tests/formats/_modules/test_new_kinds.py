"""A kind that is new to kohya's files is its change and its codec: nothing else is edited."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from loratools.errors import FormatError
from loratools.formats import decode, encode
from loratools.formats._modules import kinds
from loratools.reshaping.rescaled import Rescaling, rescaled
from tests.formats.kohya.modules import TRAINED, UNET, bundle, module
from tests.narrowing import present

TOY: dict[str, Tensor] = {
    f"{UNET}.toy_w1_a": torch.randn(4, 2),
    f"{UNET}.toy_w2_a": torch.randn(4, 2),
    f"{UNET}.toy_w1_b": torch.randn(2, 3),
    f"{UNET}.toy_w2_b": torch.randn(2, 3),
}
ALPHA = {f"{UNET}.alpha": torch.tensor(3.0)}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toys lie in the folder of the codecs."""
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(Path(__file__).parent / "toys")])


@pytest.mark.parametrize("alpha", [{}, ALPHA], ids=["no alpha", "alpha"])
def test_kind_is_read_and_written_as_it_was(alpha: dict[str, Tensor]) -> None:
    files = bundle({**module("lora_te_fc", dtype=torch.float32), **alpha, **TOY})
    adapter = decode(files)
    assert adapter.kinds == ("LoRA", "products")
    again = encode(adapter)
    assert list(again.tensors) == list(files.tensors)
    assert all(torch.equal(again.tensors[k].read(), s.read()) for k, s in files.tensors.items())


def test_its_alpha_is_rescaled_and_said_in_the_metadata() -> None:
    files = bundle({**ALPHA, **TOY}, TRAINED)
    halved = encode(rescaled(decode(files), Rescaling(strength=0.5)).adapter)
    assert halved.tensors[f"{UNET}.alpha"].read() == 1.5
    assert halved.metadata["ss_network_alpha"] == "1.5"
    assert present(decode(halved).updates[f"{UNET}.weight"].delta.scaling).value == 0.75


@pytest.mark.parametrize("part", TOY)
def test_part_that_is_missing_is_named(part: str) -> None:
    name = part.rpartition(".")[2]
    with pytest.raises(FormatError, match=rf"{UNET} has toy_.* and no {name}: half an update"):
        decode(bundle({key: tensor for key, tensor in TOY.items() if key != part}))


def test_parts_of_two_updates_are_refused() -> None:
    with pytest.raises(FormatError, match="which are parts of two updates"):
        decode(bundle({**module(), **TOY}))
