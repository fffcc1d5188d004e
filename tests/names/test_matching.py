"""A target means one tensor of the base, found by name and shape, or none and it is said why."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools.errors import MatchError
from loratools.names.matching import BaseNames

SHAPE = (4, 3)


def base(*names: str, **shapes: tuple[int, ...]) -> BaseNames:
    return BaseNames(dict.fromkeys(names, SHAPE) | shapes)


@pytest.mark.parametrize(
    ("target", "name", "renaming"),
    [
        ("model.layers.0.q.weight", "model.layers.0.q.weight", None),
        (
            "layers.0.q.weight",
            "layers.0._orig_mod.q.weight",
            "with wrappers: layers.0._orig_mod.q.weight",
        ),
        ("layers.0.q.weight", "model.layers.0.q.weight", "model. added"),
        ("model.layers.0.q.weight", "layers.0.q.weight", "model. removed"),
        ("transformer.h.0.attn.weight", "h.0.attn.weight", "transformer. removed"),
        ("h.0.attn.weight", "transformer.h.0.attn.weight", "transformer. added"),
        ("bert.encoder.q.weight", "encoder.q.weight", "bert. removed"),
        ("roberta.encoder.q.weight", "encoder.q.weight", "roberta. removed"),
        ("layers.0.q.weight", "gpt_neox.layers.0.q.weight", "gpt_neox. added"),
        ("_orig_mod.layers.0.q.weight", "layers.0.q.weight", "_orig_mod. removed"),
        ("module.layers.0.q.weight", "layers.0.q.weight", "module. removed"),
        (
            "model.layers.0.q.weight",
            "language_model.model.layers.0.q.weight",
            "model. → language_model.model.",
        ),
        (
            "model.layers.0.q.weight",
            "model.language_model.layers.0.q.weight",
            "model. → model.language_model.",
        ),
        (
            "model.language_model.layers.0.q.weight",
            "language_model.model.layers.0.q.weight",
            "model.language_model. → language_model.model.",
        ),
        (
            "model.layers.0.q.weight",
            "model.text_model.layers.0.q.weight",
            "model. → model.text_model.",
        ),
        (
            "model.vision_tower.encoder.layers.0.q.weight",
            "vision_tower.vision_model.encoder.layers.0.q.weight",
            "model.vision_tower. → vision_tower.vision_model.",
        ),
        ("lm_head.weight", "language_model.lm_head.weight", "lm_head. → language_model.lm_head."),
        ("visual.blocks.0.q.weight", "model.visual.blocks.0.q.weight", "visual. → model.visual."),
        (
            "model.vision_tower.blocks.0.q.weight",
            "vision_tower.blocks.0.q.weight",
            "model.vision_tower. → vision_tower.",
        ),
        (
            "text_encoder.encoder.layers.0.q.weight",
            "text_model.encoder.layers.0.q.weight",
            "text_encoder. → text_model.",
        ),
        (
            "text_encoder_2.encoder.layers.0.q.weight",
            "text_encoder_2.text_model.encoder.layers.0.q.weight",
            "text_encoder_2. → text_encoder_2.text_model.",
        ),
        (
            "layers.0.q.weight",
            "backbone.decoder.layers.0.q.weight",
            "the only name with the same suffix: backbone.decoder.layers.0.q.weight",
        ),
        (
            "wrapper.deep.layers.0.q.weight",
            "layers.0.q.weight",
            "the only name with the same suffix: layers.0.q.weight",
        ),
    ],
)
def test_target_is_found_under_the_name_it_has_in_the_base(
    target: str, name: str, renaming: str | None
) -> None:
    match = base(name, "other.layers.1.q.weight", "layers.0.k.weight").match(target, SHAPE)
    assert (match.name, match.renaming, match.is_transposed) == (name, renaming, False)
    named = base(name).match_name(target)
    assert named is not None
    assert (named.name, named.renaming) == (name, renaming)


def test_the_same_name_goes_before_a_renaming_and_that_before_an_ending() -> None:
    names = ("x.layers.0.q.weight", "model.layers.0.q.weight", "layers.0.q.weight")
    target = "layers.0.q.weight"
    assert base(*names).match(target, SHAPE).name == names[2]
    assert base(*names[:2]).match(target, SHAPE).name == names[1]
    assert base(*names[:1]).match(target, SHAPE).name == names[0]


def test_name_with_another_shape_is_passed_over_for_one_that_fits() -> None:
    names = BaseNames({"q.weight": (9, 9), "model.q.weight": SHAPE})
    assert names.match("q.weight", SHAPE).name == "model.q.weight"


def test_part_of_a_name_is_no_ending() -> None:
    with pytest.raises(MatchError, match="no such tensor"):
        base("model.my_q.weight").match("q.weight", SHAPE)
    with pytest.raises(MatchError, match="no such tensor"):
        base("layers.10.q.weight").match("0.q.weight", SHAPE)


@pytest.mark.parametrize(
    "names",
    [
        ("model.q.weight", "transformer.q.weight"),
        ("one.layers.q.weight", "two.layers.q.weight"),
        ("language_model.model.q.weight", "model.language_model.q.weight"),
    ],
    ids=str,
)
def test_ambiguity_is_refused_and_the_candidates_are_named(names: tuple[str, ...]) -> None:
    target = "model.q.weight" if "language_model.model.q.weight" in names else "q.weight"
    target = "layers.q.weight" if names[0].startswith("one") else target
    message = f"{target}: several base tensors fit equally well: {', '.join(names)}"
    with pytest.raises(MatchError, match=re.escape(message)):
        base(*names).match(target, SHAPE)


def test_shape_decides_between_names_that_else_fit_equally_well() -> None:
    names = BaseNames({"one.q.weight": SHAPE, "two.q.weight": (9, 9)})
    assert names.match("q.weight", SHAPE).name == "one.q.weight"


@pytest.mark.parametrize(
    ("stored", "wanted", "may", "transposed"),
    [
        ((4, 3), (4, 3), True, False),
        ((3, 4), (4, 3), True, True),
        ((4, 4), (4, 4), True, False),  # a square one: `conv1d` decides
    ],
)
def test_matrix_may_be_stored_transposed(
    stored: tuple[int, ...], wanted: tuple[int, ...], may: bool, transposed: bool
) -> None:
    match = BaseNames({"q.weight": stored}).match("q.weight", wanted, may_transpose=may)
    assert match.is_transposed is transposed


def test_transposed_is_no_match_where_the_file_fixes_the_orientation() -> None:
    with pytest.raises(MatchError, match=r"has it with another shape: q\.weight \[3, 4\]"):
        BaseNames({"q.weight": (3, 4)}).match("q.weight", (4, 3))


@pytest.mark.parametrize(
    ("stored", "target"),
    [
        ("q.weight", "q.weight"),
        ("model.q.weight", "q.weight"),
        ("far.away.q.weight", "away.q.weight"),
    ],
)
def test_other_shape_is_no_match_and_is_shown(stored: str, target: str) -> None:
    with pytest.raises(MatchError) as caught:
        BaseNames({stored: (8, 3)}).match(target, SHAPE, may_transpose=True)
    assert str(caught.value) == (
        f"{target} [4, 3]: the base has it with another shape: {stored} [8, 3]"
    )


def test_target_without_a_counterpart_is_shown_with_the_nearest_names() -> None:
    names = base("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight")
    with pytest.raises(
        MatchError, match=r"no such tensor in the base; nearest: .*q_proj"
    ) as caught:
        names.match("model.layers.7.self_attn.q_proj.weight", SHAPE)
    assert str(caught.value).startswith("model.layers.7.self_attn.q_proj.weight [4, 3]: ")


def test_target_like_nothing_in_the_base_names_nothing() -> None:
    with pytest.raises(MatchError) as caught:
        base("aaaa.bbbb").match("qqqq.zzzz", SHAPE)
    assert str(caught.value) == "qqqq.zzzz [4, 3]: no such tensor in the base"
    assert base("aaaa.bbbb").match_name("qqqq.zzzz") is None


def test_long_names_are_cut_in_messages() -> None:
    with pytest.raises(MatchError) as caught:
        base("a").match("x" * 5000, SHAPE)
    assert len(str(caught.value)) < 300


NAMES = st.lists(
    st.lists(st.sampled_from(["model", "language_model", "layers", "0", "q", "weight"]), min_size=1)
    .map(".".join),
    min_size=1,
    max_size=6,
    unique=True,
)  # fmt: skip


@given(names=NAMES, number=st.integers(0, 5))
def test_every_tensor_of_the_base_is_found_under_its_own_name(
    names: list[str], number: int
) -> None:
    name = names[number % len(names)]
    assert base(*names).match(name, SHAPE).name == name


@given(names=NAMES, target=NAMES.map(lambda drawn: drawn[0]))
def test_a_match_does_not_depend_on_the_order_of_the_base(names: list[str], target: str) -> None:
    def found(order: list[str]) -> str | None:
        try:
            return base(*order).match(target, SHAPE).name
        except MatchError:
            return None

    assert found(names) == found(names[::-1])


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("lora_unet_down_blocks_0_to_q.weight", "down_blocks.0.to_q.weight"),
        (
            "lora_unet_input_blocks_4_1_to_q.weight",
            "model.diffusion_model.input_blocks.4.1.to_q.weight",
        ),
        (
            "lora_te1_text_model_layers_0_fc1.weight",
            "conditioner.embedders.0.transformer.text_model.layers.0.fc1.weight",
        ),
        ("lora_unet__blocks_0_q.weight", "blocks.0.q.weight"),
        ("lycoris_transformer_blocks_0_q.weight", "transformer_blocks.0.q.weight"),
    ],
)
def test_flattened_target_is_found_by_flattening_the_base(target: str, name: str) -> None:
    names = base(name, "single_transformer_blocks.0.q.weight", "other.0.q.weight")
    match = names.match(target, SHAPE)
    assert (match.name, match.renaming) == (name, f"flattened: {name}")
    assert not match.is_transposed


def test_whole_flattened_name_comes_before_an_ending() -> None:
    names = base("mid.proj.weight", "vae.mid.proj.weight")
    assert names.match("lora_unet_mid_proj.weight", SHAPE).name == "mid.proj.weight"


def test_flattened_target_with_two_candidates_is_refused() -> None:
    names = base("a.b_c.weight", "a_b.c.weight", "other.weight")
    with pytest.raises(MatchError, match="several base tensors fit equally well"):
        names.match("lora_unet_a_b_c.weight", SHAPE)
    names = base("one.b.c.weight", "two.b.c.weight")
    with pytest.raises(MatchError, match="several base tensors fit equally well"):
        names.match("lora_unet_b_c.weight", SHAPE)


def test_shape_decides_between_two_encoders() -> None:
    names = BaseNames({"one.text.fc.weight": (4, 3), "two.text.fc.weight": (6, 5)})
    assert names.match("lora_te2_text_fc.weight", (6, 5)).name == "two.text.fc.weight"


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1, 1), (3, 3), (3, 3, 1, 1)])
@pytest.mark.parametrize("kernel", [(), (1, 1)])
def test_linear_layer_and_1x1_convolution_are_the_same_to_a_flattened_target(
    shape: tuple[int, ...], kernel: tuple[int, ...]
) -> None:
    names = BaseNames({"mid.proj.weight": (*shape[:2], *kernel)})
    assert not names.match("lora_unet_mid_proj.weight", shape).is_transposed


@pytest.mark.parametrize("shape", [(3, 4), (4, 3, 3, 3), (4, 6)])
def test_flattened_target_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    names = BaseNames({"mid.proj.weight": (4, 3)})
    with pytest.raises(MatchError, match=r"with another shape: mid\.proj\.weight \[4, 3\]"):
        names.match("lora_unet_mid_proj.weight", shape, may_transpose=True)


def test_flattened_target_without_a_counterpart_is_refused() -> None:
    with pytest.raises(MatchError, match=r"no such tensor in the base$"):
        base("mid.proj.weight").match("lora_unet_down_proj.weight", SHAPE)


@pytest.mark.parametrize(
    ("stored", "target"),
    [
        ("norm_out.linear.weight", "embedder.blocks.0.norm_out.linear.weight"),
        ("blocks.0.norm_out.linear.weight", "norm_out.linear.weight"),
        ("model.blocks.0.norm_out.linear.weight", "lora_unet_norm_out_linear.weight"),
    ],
)
def test_a_module_in_a_layer_is_never_one_outside_of_it(stored: str, target: str) -> None:
    base = BaseNames({stored: (4, 4)})
    with pytest.raises(MatchError, match="no such tensor in the base"):
        base.match(target, (4, 4))


def test_a_number_before_the_model_is_no_layer() -> None:
    base = BaseNames({"encoder.layer.0.query.weight": (4, 4)})
    match = base.match("0.auto_model.encoder.layer.0.query.weight", (4, 4))
    assert match.name == "encoder.layer.0.query.weight"


def test_a_module_inside_of_one_of_the_model_is_never_one_outside_of_it() -> None:
    base = BaseNames({"embed.time.weight": (4, 4), "context.weight": (4, 4)})
    assert base.match("pipe.dit.embed.time.weight", (4, 4)).name == "embed.time.weight"
    with pytest.raises(MatchError, match="no such tensor in the base"):
        base.match("context.embed.time.weight", (4, 4))
