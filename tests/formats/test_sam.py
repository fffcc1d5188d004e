"""Adapters of Sam_LoRA, SAMed and LoRA-ViT: what they add to the layers that they wrap."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from loratools.errors import FormatError, ShapeMismatchError, UnsupportedError
from loratools.formats import decode
from loratools.io.bundle import Bundle
from loratools.io.source import Held
from tests.adapters import effects
from tests.formats.bundles import bundle

WIDTH, BLOCKS, RANK = 192, 12, 2


def tensors(count: int = 2 * BLOCKS, width: int = WIDTH) -> dict[str, torch.Tensor]:
    """The state dict of such a trainer."""
    torch.manual_seed(0)
    downs = {f"w_a_{n:03d}": torch.randn(RANK, width) for n in range(count)}
    return downs | {f"w_b_{n:03d}": torch.randn(width, RANK) for n in range(count)}


def files(**changed: Any) -> Bundle:
    found = {**tensors(), **changed}
    return bundle_of({key: value for key, value in found.items() if value is not None})


def bundle_of(found: dict[str, torch.Tensor]) -> Bundle:
    names = {torch.float32: "F32", torch.float16: "F16"}
    held = {key: Held(key, value, names[value.dtype]) for key, value in found.items()}
    return Bundle("here", held, {}, None, (), 0)


def test_merged_weight_computes_what_the_trainers_layer_computes(tmp_path: Path) -> None:
    """Their layer adds `b(a(x))` to the first and to the last third of the outputs of `qkv`."""
    stored = tensors()
    save_file(stored, tmp_path / "lora.safetensors")
    name = "image_encoder.blocks.{}.attn.qkv.weight"
    base = {name.format(n): torch.randn(3 * WIDTH, WIDTH) for n in range(BLOCKS)}
    save_file(base, tmp_path / "base.safetensors")
    output = tmp_path / "merged.safetensors"
    loratools.merge(tmp_path / "base.safetensors", tmp_path / "lora.safetensors", output=output)
    merged = load_file(output)
    torch.manual_seed(1)
    inputs = torch.randn(5, WIDTH, dtype=torch.float64)
    for block in (0, 7, 11):
        wanted = inputs @ base[name.format(block)].double().T
        for position, part in ((2 * block, slice(0, WIDTH)), (2 * block + 1, slice(-WIDTH, None))):
            down, up = stored[f"w_a_{position:03d}"], stored[f"w_b_{position:03d}"]
            wanted[:, part] += inputs @ down.double().T @ up.double().T
        found = inputs @ merged[name.format(block)].double().T
        # Each weight is rounded once, by half of its last bit.
        bound = inputs.abs().sum(1).max() * merged[name.format(block)].abs().max() * 2**-24
        assert (found - wanted).abs().max() <= bound


def test_separate_layers_have_an_update_each() -> None:
    adapter = decode(files(), {"qkv": "separate"})
    assert len(adapter.updates) == 2 * BLOCKS
    stored = tensors()
    for position, part in ((6, "q"), (7, "v")):
        found = effects(adapter)[f"transformer.blocks.3.attn.proj_{part}.weight"]
        product = stored[f"w_b_{position:03d}"].double() @ stored[f"w_a_{position:03d}"].double()
        torch.testing.assert_close(found, product)


def test_published_adapter_has_the_parameters_that_are_stored(fixtures: Path) -> None:
    described = loratools.inspect(fixtures / "real/sam-vitb-lora-r2").to_json()
    (row,) = described["targets"]
    assert (row["pattern"], row["count"]) == ("blocks.*.attn.qkv.weight", 12)
    assert described["parameters"] == 48 * 2 * 768


def test_all_stored_tensors_are_accounted_for() -> None:
    whole = {
        "prompt_encoder.no_mask_embed.weight": torch.ones(1, 4),
        "mask_decoder.iou_token.weight": torch.ones(1, 4),
        f"fc_{WIDTH}in_10out": torch.ones(10, WIDTH),
    }
    adapter = decode(files(**whole))
    assert [*adapter.replaced, *adapter.inert] == list(whole)
    keys = {k for u in adapter.updates.values() for s in u.delta.sources for k in s.keys}
    assert keys == set(tensors())


@pytest.mark.parametrize("count", [2, 8, 2 * BLOCKS - 1, 2 * BLOCKS + 2])
def test_blocks_that_cannot_be_known_are_refused(count: int) -> None:
    message = (
        f"{count} pairs of factors for a model of width 192.*only their order, and .*12 blocks"
    )
    with pytest.raises(UnsupportedError, match=message):
        decode(bundle_of(tensors(count)))
    with pytest.raises(UnsupportedError, match="models of this width are not known"):
        decode(bundle_of(tensors(width=50)))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"w_a_003": None}, FormatError, "here: has no w_a_003"),
        ({"w_a_000": None, "w_b_000": None}, FormatError, "here: has no w_a_000, w_b_000"),
        ({"w_c_000": torch.ones(1)}, FormatError, "w_c_000: an unknown key"),
        ({"w_a_0000": torch.ones(1)}, FormatError, "w_a_0000: an unknown key"),
        ({f"w_a_{'1' * 5000}": torch.ones(1)}, FormatError, "an unknown key"),
        ({"w_b_004": torch.ones(WIDTH, 3)}, ShapeMismatchError, r"w_a_004 \[2, 192\] and w_b_004"),
        ({"w_a_004": torch.ones(2, 7)}, ShapeMismatchError, r"w_a_004 \[2, 7\] and w_b_004"),
        ({"w_b_000": torch.ones(())}, ShapeMismatchError, r"w_a_000 \[2, 192\] and w_b_000 \[\]"),
        ({"w_b_004": torch.ones(WIDTH, 2).half()}, FormatError, "w_b_004 are F16, F32, others F32"),
    ],
    ids=range(9),
)
def test_damaged_files_are_refused_by_what_is_wrong(
    changed: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        decode(files(**changed))


def test_other_names_are_not_taken_for_theirs() -> None:
    with pytest.raises(UnsupportedError, match="not an adapter of a known kind"):
        decode(bundle({"w_a_0": (2, 2), "block.w_a_000": (2, 2)}, None))
