"""Merging with weights of blocks is merging an adapter that was rescaled by blocks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import loratools
from loratools import MergeOptions, MergeReport, Rescaling
from loratools.errors import MatchError, OptionError, UnsupportedError
from loratools.files.opening import open_adapter, open_base
from tests.merged import merged, pair, update, write_adapter, write_base
from tests.narrowing import present

Q, K = "self_attn.q_proj", "self_attn.k_proj"
LAYERS = [f"model.layers.{number}.{part}" for number in range(4) for part in (Q, K)]
EMBEDDING = "model.embed_tokens.weight"


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    weights = {f"{name}.weight": normal(6, 5, seed=n).bfloat16() for n, name in enumerate(LAYERS)}
    weights[EMBEDDING] = normal(8, 5, seed=77)
    return write_base(tmp_path / "base", weights, {"model_type": "llama"})


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A LoRA of rank 3, by which not every division is exact; its alpha is stored in float64."""
    return write_adapter(tmp_path / "adapter", factors(), r=3, lora_alpha=0.7)


def factors(start: int = 100) -> dict[str, Tensor]:
    return {
        f"{name}.lora_{part}.weight": normal(*shape, seed=start + number)
        for number, name in enumerate(LAYERS)
        for part, shape in (("A", (3, 5)), ("B", (6, 3)))
    }


def by_blocks(
    base: Path, *adapters: Path, texts: list[str], name: str = "by-blocks", **others: Any
) -> tuple[dict[str, Tensor], MergeReport]:
    options = MergeOptions(block_weights=texts, **others.pop("options", {}))
    return merged(base, *adapters, output=base.parent / name, options=options, **others)


@pytest.mark.parametrize(
    "text", ["B00=0.3,B01=-1.7,B02=0", "rest=0.1", "B01-B02=0,rest=1e-3", "ALL", "ALL0.5,B03=7"]
)
@pytest.mark.parametrize("weight", [1.0, -0.37])
def test_merge_by_blocks_is_rescale_by_blocks_and_then_merge(
    base: Path, adapter: Path, text: str, weight: float
) -> None:
    by_blocks(base, adapter, texts=[text], weights=[weight], name="one")
    rescaled = base.parent / "rescaled"
    loratools.rescale(adapter, output=rescaled, rescaling=Rescaling(block_weights=text))
    merged(base, rescaled, output=base.parent / "other", weights=[weight])
    merged(base, adapter, output=base.parent / "whole", weights=[weight])
    one, other, whole = (
        (base.parent / name / "model.safetensors").read_bytes()
        for name in ("one", "other", "whole")
    )
    assert one == other
    assert (one == whole) == (text == "ALL")


@pytest.mark.parametrize("weight", [0.1, 0.3, 0.7, -1.7, 1 / 3])
def test_merge_binds_the_very_numbers_that_rescale_stores(
    base: Path, adapter: Path, weight: float
) -> None:
    """alpha · weight / rank, and not alpha / rank · weight, which rounds otherwise."""
    text = f"rest={weight!r}"
    report = by_blocks(base, adapter, texts=[text])[1]
    loratools.rescale(adapter, output=base.parent / "r", rescaling=Rescaling(block_weights=text))
    stored = open_adapter(base.parent / "r").updates
    changes = [change for tensor in report.plan.changed for change in tensor.changes]
    assert len(changes) == len(LAYERS)
    for change in changes:
        assert change.strength == 1
        assert present(change.delta.scaling).value == 0.7 * weight / 3
        scaling = present(stored[change.target].delta.scaling)
        assert present(change.delta.scaling).value == scaling.value


def test_weights_of_blocks_multiply_the_weight_of_the_adapter(tmp_path: Path) -> None:
    one, other = pair("model.layers.0.q", 4, 3, seed=1), pair("model.layers.1.q", 4, 3, seed=2)
    base = write_base(
        tmp_path / "base", {f"model.layers.{n}.q.weight": torch.ones(4, 3) for n in (0, 1)}
    )
    adapter = write_adapter(tmp_path / "adapter", {**one, **other})
    tensors, report = by_blocks(base, adapter, texts=["B00=0.5,B01=-2"], weights=[4.0])
    assert torch.equal(tensors["model.layers.0.q.weight"], 1 + 2 * update(one))
    assert torch.equal(tensors["model.layers.1.q.weight"], 1 - 8 * update(other))
    strengths = [tensor["changes"][0]["strength"] for tensor in report.to_json()["tensors"]]
    assert strengths == [2.0, -8.0]
    assert [actions for _, actions in report.rows()] == ["LoRA × 2", "LoRA × -8"]


def test_a_weight_of_zero_leaves_out_and_is_counted_so(base: Path, adapter: Path) -> None:
    tensors, report = by_blocks(base, adapter, texts=["B02=0"])
    before = merged(base, adapter)[0]
    untouched = open_base(base).tensors
    changed = {tensor.name for tensor in report.plan.changed}
    assert changed == {f"{name}.weight" for name in LAYERS if ".2." not in name}
    for name in untouched:
        assert torch.equal(tensors[name], before[name]) == (".2." not in name)
        if ".2." in name:
            assert torch.equal(tensors[name], untouched[name].read())
    accounting = report.to_json()["accounting"]
    assert (accounting["applied"], len(accounting["weightless"])) == (12, 4)
    assert accounting["adapter_tensors"] == 16
    assert report.accounting == (
        "12 of 16 adapter tensors applied to 6 weights; 3 base tensors unchanged; 4 adapter "
        "tensors left out by block weights"
    )
    assert report.notes[0] == f"{adapter}: block weights: B00 to B01 1, B02 0, B03 1"
    assert report.to_json()["adapters"][0]["block_weights"] == {
        "B00": 1, "B01": 1, "B02": 0, "B03": 1,
    }  # fmt: skip


def test_without_block_weights_nothing_is_said_of_them(base: Path, adapter: Path) -> None:
    _, report = merged(base, adapter)
    assert report.notes == ()
    assert report.to_json()["adapters"][0]["block_weights"] == {}


def test_what_is_left_out_needs_no_place_in_the_base(base: Path, tmp_path: Path) -> None:
    """As text encoders have none in a checkpoint of a U-Net alone: BASE=0 leaves them out."""
    more = pair("model.layers.9.self_attn.q_proj", 6, 5)
    adapter = write_adapter(tmp_path / "longer", {**pair(LAYERS[0], 6, 5), **more})
    with pytest.raises(MatchError, match=r"layers\.9"):
        by_blocks(base, adapter, texts=["B00=1"])
    _, report = by_blocks(base, adapter, texts=["B09=0"])
    assert len(report.plan.accounting.weightless) == 2


def test_nothing_may_be_left_out_of_everything(base: Path, adapter: Path) -> None:
    with pytest.raises(MatchError, match="no adapter tensor is left to apply"):
        by_blocks(base, adapter, texts=["NONE"])


def test_several_adapters_have_weights_of_their_own(base: Path, adapter: Path) -> None:
    other = write_adapter(base.parent / "other", factors(200), r=3)
    tensors, _ = by_blocks(base, adapter, other, texts=["B00=1,rest=0", "B01=1,rest=0"])
    first, second = merged(base, adapter)[0], merged(base, other, output=base.parent / "2")[0]
    for name in (f"{layer}.weight" for layer in LAYERS[:2]):
        assert torch.equal(tensors[name], first[name])
    for name in (f"{layer}.weight" for layer in LAYERS[2:4]):
        assert torch.equal(tensors[name], second[name])


@pytest.mark.parametrize("texts", [[], ["ALL", "ALL"]])
def test_there_are_block_weights_for_every_adapter(
    base: Path, adapter: Path, texts: list[str]
) -> None:
    with pytest.raises(OptionError, match=f"{len(texts)} block weights for 1 adapter"):
        by_blocks(base, adapter, texts=texts)


def test_weights_that_do_not_fit_name_the_adapter(base: Path, adapter: Path) -> None:
    with pytest.raises(MatchError, match=f"^{adapter}: block weights: .*B00 to B03"):
        by_blocks(base, adapter, texts=["1,2,3"])


class TestKindsWithoutStrength:
    """DoRA, as with `weights`, gets a part of the way to its result; whole tensors get 0 or 1."""

    @pytest.fixture
    def dora(self, tmp_path: Path) -> Path:
        magnitudes = {
            f"{name}.lora_magnitude_vector": normal(6, seed=n).abs()
            for n, name in enumerate(LAYERS)
        }
        return write_adapter(
            tmp_path / "dora", {**factors(), **magnitudes}, r=3, lora_alpha=3, use_dora=True
        )

    def test_dora_goes_as_far_as_with_the_weight_of_the_adapter(
        self, base: Path, dora: Path
    ) -> None:
        tensors, _ = by_blocks(base, dora, texts=["B00=0.5,B01=0,rest=1"])
        half = merged(base, dora, weights=[0.5])[0]
        whole = merged(base, dora, output=base.parent / "whole")[0]
        unchanged = open_base(base).tensors
        for number, name in enumerate(f"{layer}.weight" for layer in LAYERS):
            expected = [half[name], unchanged[name].read(), whole[name], whole[name]][number // 2]
            assert torch.equal(tensors[name], expected)

    def test_dora_is_refused_where_its_weight_would_take_it_out(
        self, base: Path, dora: Path
    ) -> None:
        with pytest.raises(UnsupportedError, match="a weight of -1 does not take it out"):
            by_blocks(base, dora, texts=["B00=-1"])

    def test_rescale_refuses_to_store_another_strength_for_dora(self, dora: Path) -> None:
        with pytest.raises(UnsupportedError, match="DoRA depends on the weight"):
            loratools.rescale(dora, output=None, rescaling=Rescaling(block_weights="B00=0.5"))
        made = loratools.rescale(dora, output=None, rescaling=Rescaling(block_weights="ALL"))
        assert set(made.report.strengths.values()) == {1.0}

    @pytest.fixture
    def with_embedding(self, adapter: Path, tmp_path: Path) -> Path:
        whole = {EMBEDDING: normal(8, 5, seed=5)}
        return write_adapter(
            tmp_path / "whole", {**factors(), **whole}, r=3, modules_to_save=["embed_tokens"]
        )

    def test_a_whole_tensor_is_left_out_or_put_in(self, base: Path, with_embedding: Path) -> None:
        without, _ = by_blocks(base, with_embedding, texts=["BASE=0"])
        original = open_base(base).tensors[EMBEDDING].read()
        assert torch.equal(without[EMBEDDING], original)
        tensors, _ = by_blocks(base, with_embedding, texts=["BASE=1,rest=0"], name="with")
        assert torch.equal(tensors[EMBEDDING], normal(8, 5, seed=5))
        with pytest.raises(UnsupportedError, match=r"no weight of 0\.5"):
            by_blocks(base, with_embedding, texts=["BASE=0.5"], name="half")

    def test_what_is_left_out_is_not_taken_for_lost(self, base: Path, tmp_path: Path) -> None:
        """A module that is stored in some layers only is refused, unless blocks leave it out."""
        names = [f"model.layers.{number}.{Q}.weight" for number in range(4)]
        whole = {name: normal(6, 5, seed=number) for number, name in enumerate(names)}
        saved = {"modules_to_save": ["q_proj"], "target_modules": ["k_proj"], "r": 3}
        rest = {key: value for key, value in factors().items() if K in key}
        adapter = write_adapter(tmp_path / "saved", {**rest, **whole}, **saved)
        tensors, _ = by_blocks(base, adapter, texts=["B02=0"])
        for number, name in enumerate(names):
            original = open_base(base).tensors[name].read()
            expected = original if number == 2 else whole[name].bfloat16()
            assert torch.equal(tensors[name], expected)
        del whole[names[2]]
        lacking = write_adapter(tmp_path / "lacking", {**rest, **whole}, **saved)
        with pytest.raises(UnsupportedError, match="modules_to_save means"):
            by_blocks(base, lacking, texts=["ALL"], name="lacking-merged")

    def test_rescale_keeps_whole_tensors_only_if_asked(self, with_embedding: Path) -> None:
        by_name = Rescaling(block_weights="BASE=0.5")
        with pytest.raises(UnsupportedError, match="keep_replaced=True"):
            loratools.rescale(with_embedding, output=None, rescaling=by_name)
        other = Rescaling(block_weights="B00=0.5")
        made = loratools.rescale(with_embedding, output=None, rescaling=other)
        assert made.report.written is None


@pytest.mark.parametrize(
    "layout",
    [
        ("down_blocks.1.attentions.0", "up_blocks.1.attentions.1"),
        ("input_blocks.4.1", "output_blocks.4.1"),
    ],
)
def test_blocks_of_a_unet_have_ldms_numbers_in_both_layouts(
    tmp_path: Path, layout: tuple[str, str]
) -> None:
    names = [f"{block}.proj_in.weight" for block in layout]
    base = write_base(tmp_path / "base", {name: torch.zeros(4, 3) for name in names})
    numbers = [pair("x", 4, 3, seed=seed) for seed in (1, 2)]
    tensors = {
        f"lora_unet_{block.replace('.', '_')}_proj_in.{part}": tensor
        for block, factors in zip(layout, numbers, strict=True)
        for part, tensor in zip(
            ("lora_down.weight", "lora_up.weight", "alpha"),
            (*factors.values(), torch.tensor(1.0)),
            strict=True,
        )
    }
    save_file(tensors, tmp_path / "adapter.safetensors")
    result, _ = by_blocks(base, tmp_path / "adapter.safetensors", texts=["IN04=0.5,OUT04=0.25"])
    assert torch.equal(result[names[0]], update(numbers[0]) / 2)
    assert torch.equal(result[names[1]], update(numbers[1]) / 4)


@pytest.mark.parametrize(
    "text", ["D00=0.3,S01=0", "FLUX-SINGLE-ALL", ",".join(str(n / 10) for n in range(57))]
)
def test_blocks_are_weighed_alike_where_the_base_has_other_names_and_fused_weights(
    tmp_path: Path, text: str
) -> None:
    """A LoRA of diffusers for FLUX.1, with query, key and value apart, on the original model."""
    size, rank = 8, 3
    rows = {
        "double_blocks.{}.img_attn.qkv": 3, "double_blocks.{}.txt_attn.qkv": 3,
        "double_blocks.{}.img_attn.proj": 1, "double_blocks.{}.txt_attn.proj": 1,
        "double_blocks.{}.img_mod.lin": 6, "single_blocks.{}.linear1": 7,
    }  # fmt: skip
    weights = {
        f"{name.format(block)}.weight": normal(times * size, size, seed=block)
        for name, times in rows.items()
        for block in (0, 1)
    }
    save_file(weights, tmp_path / "base.safetensors")
    stems = [
        f"transformer.{stack}.{block}.attn.to_{part}"
        for stack in ("transformer_blocks", "single_transformer_blocks")
        for block in (0, 1)
        for part in "qkv"
    ]
    tensors = {
        f"{stem}.lora_{part}.weight": normal(*shape, seed=number)
        for number, stem in enumerate(stems)
        for part, shape in (("A", (rank, size)), ("B", (size, rank)))
    }
    base, adapter = tmp_path / "base.safetensors", tmp_path / "adapter.safetensors"
    rescaled = tmp_path / "rescaled.safetensors"
    save_file(tensors, adapter)
    loratools.rescale(adapter, output=rescaled, rescaling=Rescaling(block_weights=text))
    by_blocks(base, adapter, texts=[text], name="one.safetensors")
    merged(base, rescaled, output=tmp_path / "other.safetensors")
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "other"))
    assert all(torch.equal(one[name], other[name]) for name in weights)
    assert not all(torch.equal(one[name], weights[name]) for name in weights)
