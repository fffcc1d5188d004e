"""Factors as PEFT stores them: layers, convolutions, embeddings, blocks, parts of fused weights."""

from typing import Any

import pytest
import torch

from loratools.errors import FormatError, ShapeMismatchError, UnsupportedError
from loratools.formats import decode, encode
from tests.adapters import effects, lora_of
from tests.formats._peft.parts import parts
from tests.formats.bundles import PREFIX, bundle, config, decoded, lora

PAIR = lora("layer.q")


@pytest.mark.parametrize(
    ("down", "up", "shape"),
    [
        ((2, 3), (4, 2), (4, 3)),
        ((2, 3, 1), (4, 2, 1), (4, 3, 1)),
        ((2, 3, 5), (4, 2, 1), (4, 3, 5)),
        ((2, 3, 5, 7), (4, 2, 1, 1), (4, 3, 5, 7)),
        ((2, 3, 3, 1, 1), (4, 2, 1, 1, 1), (4, 3, 3, 1, 1)),
        ((2, 1, 3), (1, 2, 1), (1, 1, 3)),
    ],
    ids=str,
)
def test_update_has_the_shape_of_the_layers_weight(
    down: tuple[int, ...], up: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    update = decoded(parts(lora_A__weight=down, lora_B__weight=up)).updates["layer.q.weight"]
    assert update.delta.shape == shape
    assert (update.fan_in_fan_out is None) == (len(shape) > 2)  # only a matrix may be transposed


@pytest.mark.parametrize(
    ("down", "up"),
    [((3, 3), (4, 2)), ((2, 3), (4, 3)), ((2,), (4, 2)), ((2, 3), (4,)), ((2, 3, 3), (4, 2))],
    ids=str,
)
def test_factors_of_different_ranks_are_refused(down: tuple[int, ...], up: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatchError, match=r"layer\.q: lora_A .* do not have the same rank"):
        decoded(parts(lora_A__weight=down, lora_B__weight=up))


@pytest.mark.parametrize(
    ("down", "up", "is_asked"), [((6, 2), (2, 5), True), ((6, 2), (3, 5), False)], ids=str
)
def test_factors_that_have_one_rank_the_other_way_round_may_be_swapped(
    down: tuple[int, ...], up: tuple[int, ...], is_asked: bool
) -> None:
    with pytest.raises(ShapeMismatchError, match="do not have the same rank") as refusal:
        decoded(parts(lora_A__weight=down, lora_B__weight=up))
    asked = "they have rank 2 the other way round: are the two swapped?"
    assert refusal.value.hint == (asked if is_asked else None)


@pytest.mark.parametrize(("down", "up"), [((2, 7), (3, 3)), ((2,), (3, 2)), ((2, 7, 1), (3, 2))])
def test_embedding_factors_of_different_ranks_are_refused(
    down: tuple[int, ...], up: tuple[int, ...]
) -> None:
    with pytest.raises(ShapeMismatchError, match=r"lora_embedding_A .* the same rank"):
        decoded(parts(lora_embedding_A=down, lora_embedding_B=up))


def test_grouped_convolution_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"layer\.q: a grouped convolution"):
        decoded(parts(lora_A__weight=(4, 6, 3, 3), lora_B__weight=(8, 2, 1, 1)))


BLOCKS = {"target_modules_bd_a": ["down"], "target_modules_bd_b": ["up"], "nblocks": 2}


class TestBlockDiagonal:
    """BD-LoRA: the blocks of one factor, stored one under the other."""

    def test_down_factor_is_spread_over_the_columns(self) -> None:
        """Blocks (1, 2) and (3, 4) are [[1, 2, 0, 0], [0, 0, 3, 4]]."""
        held = bundle(lora("x.down_proj", columns=2), config(use_bdlora=BLOCKS))
        key = f"{PREFIX}x.down_proj.lora_A.weight"
        held.tensors[key].read().copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        update = decode(held).updates["x.down_proj.weight"]
        assert update.delta.shape == (4, 4)
        assert lora_of(update).down.read().tolist() == [[1, 2, 0, 0], [0, 0, 3, 4]]

    def test_up_factor_is_spread_over_the_ranks(self) -> None:
        """Blocks of two rows and one rank each make a factor of four rows and two ranks."""
        shapes = {
            f"{PREFIX}x.up_proj.lora_A.weight": (2, 3),
            f"{PREFIX}x.up_proj.lora_B.weight": (4, 1),
        }
        held = bundle(shapes, config(use_bdlora=BLOCKS))
        key = f"{PREFIX}x.up_proj.lora_B.weight"
        held.tensors[key].read().copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
        lora = lora_of(decode(held).updates["x.up_proj.weight"])
        assert lora.up.read().tolist() == [[1, 0], [2, 0], [0, 3], [0, 4]]
        assert lora.up.read_rows(1, 3).tolist() == [[2, 0], [0, 3]]

    def test_other_modules_are_plain(self) -> None:
        assert decoded(lora("x.q"), use_bdlora=BLOCKS).updates["x.q.weight"].delta.shape == (4, 3)

    def test_factor_that_is_no_stack_of_blocks_is_refused(self) -> None:
        with pytest.raises(ShapeMismatchError, match="does not consist of the 2 blocks"):
            decoded(lora("x.down_proj", rank=3), use_bdlora=BLOCKS)

    @pytest.mark.parametrize("count", [None, 0, "2", 1.5])
    def test_number_of_blocks_must_be_one(self, count: Any) -> None:
        blocks = {"target_modules_bd_a": ["q"], "nblocks": count}
        with pytest.raises(FormatError, match="here: config: use_bdlora: nblocks must be"):
            decoded(PAIR, use_bdlora=blocks)


class TestMergedLinear:
    """`enable_lora`: the numbers are compared with the convolution in the oracle tests."""

    @pytest.mark.parametrize(
        ("down", "up", "enabled", "shape"),
        [
            ((4, 3), (10, 2, 1), [True, False, True], (15, 3)),
            ((4, 3), (10, 2), [True, False, True], (15, 3)),
            ((2, 3), (5, 2, 1), [False, True], (10, 3)),
        ],
        ids=str,
    )
    def test_weight_has_rows_for_all_parts(
        self,
        down: tuple[int, ...],
        up: tuple[int, ...],
        enabled: list[bool],
        shape: tuple[int, ...],
    ) -> None:
        adapter = decoded(parts(lora_A__weight=down, lora_B__weight=up), enable_lora=enabled)
        assert adapter.updates["layer.q.weight"].delta.shape == shape
        assert adapter.notes == ()

    @pytest.mark.parametrize(
        ("down", "up", "enabled"),
        [
            ((4, 3), (9, 2, 1), [True, False, True]),
            ((5, 3), (10, 2, 1), [True, True]),
            ((1, 3), (10, 2, 1), [True, True]),
            ((2, 3), (10, 2, 1), [False, False]),
            ((2, 3), (10, 2, 1), [True, True]),
            ((2,), (10, 2, 1), [True]),
            ((2, 3), (10,), [True]),
        ],
        ids=str,
    )
    def test_factors_that_do_not_fit_the_parts_are_refused(
        self, down: tuple[int, ...], up: tuple[int, ...], enabled: list[bool]
    ) -> None:
        with pytest.raises(ShapeMismatchError, match="do not fit enable_lora"):
            decoded(parts(lora_A__weight=down, lora_B__weight=up), enable_lora=enabled)


def test_fused_weight_of_an_old_peft_is_written_in_full() -> None:
    shapes = {f"{PREFIX}qkv.lora_A.weight": (4, 3), f"{PREFIX}qkv.lora_B.weight": (4, 2)}
    adapter = decoded(shapes, enable_lora=[True, False, True])
    bundle = encode(adapter)
    assert bundle.tensors[f"{PREFIX}qkv.lora_B.weight"].shape == (6, 4)
    assert bundle.config is not None
    assert bundle.config["enable_lora"] is None
    assert effects(decode(bundle))["qkv.weight"].equal(effects(adapter)["qkv.weight"])
