"""What people write as weights of blocks, and what it means for an adapter."""

from pathlib import Path

import pytest

from loratools.errors import LoratoolsError, MatchError, OptionError
from loratools.names.block_lists import LISTS, PRESETS
from loratools.names.block_weights import block_weights
from loratools.names.blocks import parsed_label, position


def unet(*blocks: str) -> list[str]:
    """A target in each of these blocks, by LDM's names."""
    stacks = {"IN": "input_blocks.{}.1", "M": "middle_block.1", "OUT": "output_blocks.{}.1"}
    found = []
    for block in blocks:
        stack = block.rstrip("0123456789")
        root = stacks[stack].format(int(block[len(stack) :]))
        found.append(f"diffusion_model.{root}.proj_in.weight")
    return found


ENCODER = "lora_te_text_model_encoder_layers_0_mlp_fc1.weight"
#: The blocks with attention, which LoRAs of sd-scripts change, and all blocks with convolutions.
SD1 = [ENCODER, *unet(*LISTS[1].blocks[1:])]
SDXL = [ENCODER, *unet(*LISTS[0].blocks[1:])]
LOCON = [ENCODER, *unet(*LISTS[4].blocks[1:])]
SDXL_LOCON = [ENCODER, *unet(*LISTS[2].blocks[1:])]
FLUX = [
    *(f"transformer.transformer_blocks.{n}.attn.to_q.weight" for n in range(19)),
    *(f"transformer.single_transformer_blocks.{n}.attn.to_q.weight" for n in range(38)),
]
TIME = "transformer.time_text_embed.timestep_embedder.linear_1.weight"
SD3 = [f"lora_unet_joint_blocks_{n}_x_block_attn_qkv.weight" for n in range(24)]
WAN = [f"diffusion_model.blocks.{n}.self_attn.q.weight" for n in range(40)]
SMALL_WAN = WAN[:30]
QWEN = [f"transformer.transformer_blocks.{n}.attn.to_q.weight" for n in range(60)]


def counted(length: int) -> str:
    """A list of values that are all different: 1,2,3,…"""
    return ",".join(str(number) for number in range(1, length + 1))


def numbers(text: str, targets: list[str]) -> dict[str, float]:
    return dict(block_weights(text, targets).by_block)


@pytest.mark.parametrize(
    ("length", "targets", "first", "last"),
    [
        (12, SDXL, ("BASE", 1), ("OUT05", 12)),
        (17, SD1, ("BASE", 1), ("OUT11", 17)),
        (20, SDXL_LOCON, ("BASE", 1), ("OUT08", 20)),
        (26, LOCON, ("BASE", 1), ("OUT11", 26)),
        (25, LOCON[1:], ("IN00", 1), ("OUT11", 25)),
        (57, FLUX, ("B00", 1), ("S37", 57)),
        (58, [TIME, *FLUX], ("BASE", 1), ("S37", 58)),
        (24, SD3, ("B00", 1), ("B23", 24)),
        (25, [ENCODER, *SD3], ("BASE", 1), ("B23", 25)),
        (30, SMALL_WAN, ("B00", 1), ("B29", 30)),
        (40, WAN, ("B00", 1), ("B39", 40)),
        (41, WAN, ("B00", 2), ("B39", 41)),
        (60, QWEN, ("B00", 1), ("B59", 60)),
    ],
)
def test_a_list_gives_its_numbers_to_the_blocks_in_order(
    length: int, targets: list[str], first: tuple[str, float], last: tuple[str, float]
) -> None:
    found = numbers(counted(length), targets)
    ordered = sorted(found.items(), key=lambda item: position(item[0]))
    assert (ordered[0], ordered[-1]) == (first, last)
    assert [weight for _, weight in ordered] == sorted(found.values())


def test_of_two_lists_of_a_length_the_one_with_the_adapters_blocks_is_meant() -> None:
    """25 values are those of FLUX.2 klein 4B, and those of SD3 after BASE."""
    assert numbers(counted(25), SD3)["B00"] == 2
    assert numbers(counted(25), FLUX[:5] + FLUX[19:39])["B00"] == 1


def test_lists_of_published_lengths_have_the_published_orders() -> None:
    """As the tables in the README of sd-webui-lora-block-weight have them, by position from 1."""
    by_length = {len(order.blocks): order.blocks for order in LISTS[:5]}
    assert [by_length[17][n - 1] for n in (1, 2, 4, 8, 9, 17)] == [
        "BASE", "IN01", "IN04", "M00", "OUT03", "OUT11",
    ]  # fmt: skip
    assert [by_length[12][n - 1] for n in (1, 2, 5, 6, 7, 12)] == [
        "BASE", "IN04", "IN08", "M00", "OUT00", "OUT05",
    ]  # fmt: skip
    assert [by_length[20][n - 1] for n in (2, 10, 11, 12, 20)] == [
        "IN00", "IN08", "M00", "OUT00", "OUT08",
    ]  # fmt: skip
    assert [by_length[26][n - 1] for n in (2, 13, 14, 15, 26)] == [
        "IN00", "IN11", "M00", "OUT00", "OUT11",
    ]  # fmt: skip


def test_a_list_may_have_blocks_that_the_adapter_does_not_change() -> None:
    assert numbers(counted(26), SD1)["OUT11"] == 26
    assert numbers(counted(26), SDXL)["OUT05"] == 20
    assert numbers(f"[{counted(17)}]", SD1[:3]) == {"BASE": 1, "IN01": 2, "IN02": 3}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_gives_weights_to_some_family(name: str) -> None:
    found = []
    for targets in (SD1, SDXL, LOCON, [TIME, *FLUX]):
        try:
            found.append(numbers(name.lower(), targets))
        except MatchError:
            continue
    assert found
    assert all(0 <= weight <= 1 for weights in found for weight in weights.values())


def test_a_preset_means_what_the_family_of_the_adapter_has() -> None:
    assert {b for b, w in numbers("OUTD", SD1).items() if w} == {
        "BASE", "OUT03", "OUT04", "OUT05", "OUT06",
    }  # fmt: skip
    assert {b for b, w in numbers("OUTD", SDXL).items() if w} == {"BASE", "OUT00", "OUT01", "OUT02"}
    assert set(numbers("ALL0.5", FLUX).values()) == {0.5}
    single = numbers("FLUX-SINGLE-1to10", FLUX)
    assert {b for b, w in single.items() if w} == {f"S{number:02}" for number in range(10)}


@pytest.mark.parametrize("name", ["INALL", "MIDALL", "OUTALL"])
def test_a_preset_for_a_part_of_a_unet_is_for_all_its_blocks(name: str) -> None:
    stack = {"INALL": "IN", "MIDALL": "M", "OUTALL": "OUT"}[name]
    for targets in (SD1, SDXL, LOCON):
        for block, weight in numbers(name, targets).items():
            assert weight == (block == "BASE" or block.rstrip("0123456789") == stack)


def test_blocks_by_name_leave_the_others_at_one() -> None:
    found = numbers("IN04=0.5,OUT3-OUT05=0", SD1)
    assert found == {
        block: {"IN04": 0.5, "OUT03": 0, "OUT04": 0, "OUT05": 0}.get(block, 1) for block in found
    }


def test_a_range_goes_through_the_blocks_as_the_model_does() -> None:
    found = numbers("IN08-OUT03=0, MID=2", SD1)
    assert {block for block, weight in found.items() if weight == 0} == {"IN08", "OUT03"}
    assert found["M00"] == 2


def test_rest_is_the_weight_of_all_that_is_not_named() -> None:
    found = numbers("OUT03=1,rest=0", SD1)
    assert {block for block, weight in found.items() if weight} == {"OUT03"}


def test_names_after_a_list_or_a_preset_are_stronger_than_it() -> None:
    assert numbers("OUTD,BASE=0,OUT11=0.25", SD1)["OUT11"] == 0.25
    assert numbers("OUTD,BASE=0", SD1)["BASE"] == 0
    assert numbers(f"{counted(17)},IN01=-1", SD1)["IN01"] == -1


def test_of_several_weights_for_a_block_the_last_counts() -> None:
    assert numbers("IN01-IN08=0,IN02=1", SD1)["IN02"] == 1


def test_a_list_that_says_nothing_of_a_block_is_refused_until_its_weight_is_given() -> None:
    """sd-webui-lora-block-weight leaves such blocks out, and sd-scripts keeps them whole."""
    with pytest.raises(MatchError, match=r"17 values .* 9 of the adapter's .* rest=0.* 26 \("):
        numbers(counted(17), LOCON)
    assert numbers(f"{counted(17)},rest=0", LOCON)["IN00"] == 0
    assert numbers(f"{counted(17)},rest=1", LOCON)["IN00"] == 1
    with pytest.raises(MatchError, match=r"1 of the adapter's targets is in BASE; give .* BASE=0"):
        numbers(counted(57), [TIME, *FLUX])
    assert numbers(f"{counted(57)},BASE=0", [TIME, *FLUX])["S37"] == 57


@pytest.mark.parametrize(
    ("text", "targets", "said"),
    [
        (
            counted(16),
            SD1,
            r"16 values is not for .* to OUT11; .* 17 \(SD 1 and 2: BASE IN01",
        ),
        ("0.5", SD1, "the list of 1 value is not for the blocks"),
        (counted(12), SD1, r"12 values is for BASE IN04-IN05 .* 8 of .* OUT06 to OUT11"),
        (counted(17), SDXL, r"17 values is for .* 3 of the .* in OUT00 to OUT02.* 12 \(SDXL: "),
        (counted(61), FLUX, r"61 values is not for .* 57 \(Flux.1, Chroma: B00-B18 S00-S37\), 58"),
        (counted(19), FLUX, "19 values is not for the blocks"),
        (counted(57), SD1, "57 values is not for the blocks"),
        (counted(30), WAN, r"30 values is for B00-B29, and 10 of the .* in B30 to B39"),
        ("OUTD", FLUX, "the preset OUTD is not for the blocks of the adapter, B00 to B18, S00 to"),
        ("INALL", WAN, "'IN00-IN11=1' means nothing that the adapter changes, .* B00 to B39"),
        ("IN03=1", SD1, "'IN03=1' means nothing that the adapter changes"),
        ("INS", unet("IN04", "IN05", "IN07"), "several meanings .* write SD-INS or SDXL-INS"),
        ("OUTD,rest=0", SDXL_LOCON, "write SD-OUTD,rest=0 or SDXL-OUTD,rest=0"),
        (
            counted(25),
            FLUX[:3],
            r"several meanings .*, B00 to B02; write names, as in B00=1$",
        ),
    ],
)
def test_weights_that_do_not_fit_the_adapter_are_refused(
    text: str, targets: list[str], said: str
) -> None:
    with pytest.raises(MatchError, match=said) as caught:
        numbers(text, targets)
    assert len(str(caught.value)) < 450  # and the adapter's name before it


def test_a_family_in_the_name_of_a_preset_decides() -> None:
    targets = unet("IN04", "IN05", "IN07")
    assert numbers("SD-INS", targets) == {"IN04": 1, "IN05": 0, "IN07": 0}
    assert numbers("SDXL-INS", targets) == {"IN04": 1, "IN05": 1, "IN07": 0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a list of numbers or a preset"),
        ("1,,1", "not a list of numbers or a preset"),
        ("OUTD,BASE=1,2", "not a list of numbers or a preset"),
        ("nonsense", "'nonsense' is no number, and no preset, which are ALL, NONE"),
        ("1,1,R,U", "'R' is no number"),
        ("OUT03=x", "'x' is no number$"),
        ("lbw=OUTD", "'lbw=OUTD' is written as in a prompt; write OUTD$"),
        ("<lora:style:1:lbw=OUTD:step=5>", "is written as in a prompt; write OUTD$"),
        ("INS,OUTD", "'INS' is a preset, and not one number of a list; give those of each"),
        ("IN01:0.3", "'IN01:0.3' is a block; write IN01=0.3$"),
        ("1,base", "'base' is a block; write base=0.5$"),
        ("OUT03=nan", "finite number, not nan"),
        ("OUT03=", "'' is no number"),
        ("=1", "'' is no block; blocks are BASE, IN04"),
        ("XX3=1", "'XX3' is no block"),
        ("IN04-XX=1", "'IN04-XX' is no block"),
        (f"{counted(16)},1e999", "finite number, not inf"),
    ],
)
def test_what_is_no_weights_at_all_is_an_error(text: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        numbers(text, SD1)


def test_all_labels_of_lists_are_spelled_as_blocks_are() -> None:
    for order in LISTS:
        assert [parsed_label(block) for block in order.blocks] == list(order.blocks)
        assert len(set(order.blocks)) == len(order.blocks)


@pytest.mark.parametrize("text", ["OUTD", "ALL", counted(26), "OUT03=0", "rest=0"])
def test_weights_are_the_same_for_any_order_of_targets(text: str) -> None:
    assert numbers(text, SD1) == numbers(text, SD1[::-1])


def test_a_list_that_names_every_block_comes_before_one_that_needs_rest() -> None:
    """25 values are for SD3, and for Flux.2 klein, which has fewer main blocks."""
    assert numbers(f"{counted(25)},rest=0", SD3) == numbers(counted(25), SD3)


def test_an_adapter_of_text_encoders_alone_takes_the_weight_of_base() -> None:
    for text in (counted(17), "OUTD,BASE=1", counted(12), "rest=1"):
        assert numbers(text, [ENCODER]) == {"BASE": 1}
    with pytest.raises(LoratoolsError):
        numbers(counted(57), [ENCODER])


def test_the_guide_has_every_list_and_every_preset() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/block-weights.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for order in LISTS:
        cells = (f"{len(order.blocks)}", f"| {order.models} |", f"`{order.order}`")
        assert any(all(cell in row for cell in cells) for row in rows), order
    presets = [name for name in PRESETS if not name.startswith(("SD-", "SDXL-"))]
    assert all(f"`{name}`".lower() in page.lower() for name in presets)


def test_weights_are_said_in_the_order_of_blocks_with_runs_as_one() -> None:
    said = str(block_weights("OUTD,BASE=0.5", SD1[::-1]))
    assert said == "BASE 0.5, IN01 to IN08 0, M00 0, OUT03 to OUT06 1, OUT07 to OUT11 0"
