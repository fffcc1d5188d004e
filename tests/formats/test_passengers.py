"""Tensors beside an adapter that change no weight: listed with the reason, and written as read."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import loratools
from loratools.cli import cli
from loratools.errors import UnsupportedError
from loratools.formats import decode, encode
from loratools.io.bundle import Bundle
from loratools.reshaping.agreement import agree
from loratools.reshaping.combined import combined
from tests.formats.kohya.modules import UNET, bundle, module
from tests.narrowing import present

EMBEDDING = "bundle_emb.style.string_to_param.*"
PASSENGERS = {
    EMBEDDING: torch.arange(6).reshape(2, 3),
    "bundle_emb.style.diff": torch.ones(2, dtype=torch.bfloat16),
    "emp_params": torch.ones(1, 4, dtype=torch.float64),
    "_aux.lora_down.weight": torch.zeros(0),
}
TENSORS = PASSENGERS | module()


def peft() -> Bundle:
    prefix = f"base_model.model.{UNET}"
    factors = {
        f"{prefix}.lora_A.weight": torch.ones(2, 3),
        f"{prefix}.lora_B.weight": torch.ones(4, 2),
    }
    return bundle(PASSENGERS | factors, config={"peft_type": "LORA", "r": 2, "lora_alpha": 2})


@pytest.mark.parametrize("stored", [bundle(TENSORS), peft()], ids=["kohya", "peft"])
def test_passengers_of_any_format_are_without_effect_and_written_again(stored: Bundle) -> None:
    adapter = decode(stored)
    assert list(adapter.updates) == [f"{UNET}.weight"]
    assert list(adapter.inert) == list(PASSENGERS)
    assert "textual inversion, carried along" in adapter.inert[EMBEDDING]
    written = encode(adapter)
    assert written.tensors.keys() == stored.tensors.keys()
    for key in PASSENGERS:
        assert written.tensors[key] is stored.tensors[key]
    assert written.nbytes == encode(
        replace(adapter, filed=None), present(adapter.filed).dialect
    ).nbytes + sum(t.nbytes for t in PASSENGERS.values())


def test_file_with_passengers_is_written_bit_for_bit(tmp_path: Path) -> None:
    metadata = {"modelspec.title": "style"}
    save_file(TENSORS, tmp_path / "one.safetensors", metadata)
    loratools.rescale(
        tmp_path / "one.safetensors",
        output=tmp_path / "same.safetensors",
        rescaling=loratools.Rescaling(),
    )
    assert (tmp_path / "same.safetensors").read_bytes() == (
        tmp_path / "one.safetensors"
    ).read_bytes()


def test_passengers_keep_their_place_among_tensors_that_were_wrapped() -> None:
    wrapped = {
        f"lora_unet__orig_mod_{key.removeprefix('lora_unet_')}": t for key, t in module().items()
    }
    adapter = decode(
        bundle({**wrapped, EMBEDDING: torch.zeros(2, dtype=torch.float16), **module("lora_unet_z")})
    )
    assert list(encode(adapter).tensors).index(EMBEDDING) == 3


def test_inspect_names_passengers_with_the_reason(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "one.safetensors")
    output = CliRunner().invoke(cli, ["inspect", str(tmp_path / "one.safetensors")]).output
    words = " ".join(output.split())
    assert all(key in words for key in PASSENGERS)
    assert "(an embedding of textual inversion, carried along)" in words


def test_file_of_passengers_alone_is_no_adapter() -> None:
    with pytest.raises(
        UnsupportedError, match=r"not an adapter of a known kind .it holds bundle_emb"
    ):
        decode(bundle({EMBEDDING: PASSENGERS[EMBEDDING]}))


def test_another_format_gets_no_passengers() -> None:
    adapter = decode(bundle(TENSORS))
    assert not encode(adapter, "peft").tensors.keys() & PASSENGERS.keys()


def test_combined_adapter_has_the_passengers_of_all() -> None:
    one = decode(bundle(module() | {"bundle_emb.a": torch.ones(2)}))
    other = decode(
        bundle(module() | {"bundle_emb.a": torch.ones(2), "bundle_emb.b": torch.ones(3)})
    )
    both = combined([one, other], [1, 1], None, loratools.Combination())
    assert list(both.adapter.inert) == ["bundle_emb.a", "bundle_emb.b"]
    assert {"bundle_emb.a", "bundle_emb.b"} < encode(both.adapter).tensors.keys()
    assert not any("left out" in note for note in both.notes)


def test_passengers_that_differ_are_refused_or_the_first_is_taken() -> None:
    one, other = (
        decode(bundle(module() | {"bundle_emb.a": torch.full((2,), n)})) for n in (1.0, 2.0)
    )
    for policy in ("refuse", "average"):
        with pytest.raises(
            UnsupportedError, match=r"bundle_emb\.a: .* differs .* Combination\(replaced='first'\)"
        ):
            agree([one, other], policy)
    found = agree([one, other], "first")
    assert found.passengers["bundle_emb.a"].read().tolist() == [1, 1]
    assert found.notes == ("bundle_emb.a: the first is taken",)
