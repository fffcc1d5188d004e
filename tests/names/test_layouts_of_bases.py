"""A target means rows of a base's tensors, whichever layout either has its names from."""

from typing import NoReturn

import pytest

from loratools.deltas.placed import Run
from loratools.errors import MatchError
from loratools.names.architectures import architectures
from loratools.names.matching import BaseNames, Place
from loratools.names.nestings import described
from loratools.names.other_names import OtherNames
from loratools.names.search import Names
from tests.names.key_lists import key_list
from tests.narrowing import present

FLUX = key_list("flux1").tensors
ROOTED = {f"model.diffusion_model.{name}": shape for name, shape in FLUX.items()}
QKV = "double_blocks.1.img_attn.qkv.weight"
SPLIT = "transformer_blocks.1.attn.to_{}.weight"


def in_diffusers(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes of the same model in the other layout."""
    others = OtherNames(shapes)
    flux = next(a for a in architectures() if a.name == "FLUX.1")
    others.add([flux])
    return {
        name: tuple(size for size in shape if size is not None)
        for name, shape in others.shapes().items()
        if name.partition(".")[0] in flux.rules.words("diffusers")
    }


@pytest.mark.parametrize(
    "target", [QKV, f"diffusion_model.{QKV}", "lora_unet_double_blocks_1_img_attn_qkv.weight"]
)
def test_a_fused_target_is_all_rows_of_several_weights(target: str) -> None:
    rows = 3072
    base = BaseNames({f"transformer.{name}": shape for name, shape in in_diffusers(FLUX).items()})
    assert base.words == "FLUX.1, diffusers layout"
    assert base.match(target, (3 * rows, rows)).places == tuple(
        Place(f"transformer.{SPLIT.format(p)}", at * rows, (at + 1) * rows, (Run(0, 0, rows),))
        for at, p in enumerate("qkv")
    )


@pytest.mark.parametrize(("number", "part"), [*enumerate("qkv")])
def test_a_report_says_which_rows_a_target_is_however_it_is_spelled(number: int, part: str) -> None:
    base, size = BaseNames(ROOTED), 3072
    path = SPLIT.format(part).removesuffix(".weight")
    for target in (f"transformer.{path}", f"lora_transformer_{path.replace('.', '_')}"):
        assert base.match(f"{target}.weight", (size, size)).renaming == (
            f"rows {number * size} to {(number + 1) * size} of model.diffusion_model.{QKV}"
        )


def test_swapped_halves_are_two_runs_of_one_weight() -> None:
    base = BaseNames(FLUX)
    match = base.match("norm_out.linear.weight", (6144, 3072))
    runs = (Run(0, 3072, 3072), Run(3072, 0, 3072))
    assert match.places == (Place("final_layer.adaLN_modulation.1.weight", 0, 6144, runs),)


def test_an_exchanged_projection_is_transposed_whatever_its_shape() -> None:
    base = BaseNames(key_list("openclip_g").tensors)
    match = base.match("text_projection.weight", (1280, 1280), may_transpose=True)
    assert match.name == "text_projection"
    assert match.is_transposed
    assert match.is_exchanged


def test_the_last_block_is_swapped_from_both_sides() -> None:
    base = BaseNames(key_list("sd3").tensors)
    found = {
        number: base.match(f"transformer_blocks.{number}.norm1_context.linear.weight", shape)
        for number, shape in ((0, (9216, 1536)), (23, (3072, 1536)))
    }
    assert len(found[0].places[0].runs) == 1
    assert found[23].places[0].runs == (Run(0, 1536, 1536), Run(1536, 0, 1536))


def test_the_prefix_of_a_target_says_which_text_encoder_it_is_in() -> None:
    roots = {
        "model.diffusion_model.": "sdxl",
        "conditioner.embedders.0.transformer.": "clip_l",
        "conditioner.embedders.1.model.": "openclip_g",
    }
    base = BaseNames(
        {
            f"{root}{name}": shape
            for root, model in roots.items()
            for name, shape in key_list(model).tensors.items()
        }
    )
    assert base.words == "SDXL, original layout"
    path = "text_model_encoder_layers_0_self_attn_k_proj.weight"
    assert base.match(f"lora_te1_{path}", (768, 768)).name.startswith("conditioner.embedders.0.")
    second = base.match(f"lora_te2_{path}", (1280, 1280))
    assert second.places == (
        Place(
            "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
            0,
            1280,
            (Run(0, 1280, 1280),),
        ),
    )
    with pytest.raises(MatchError, match="with another shape"):
        base.match(f"lora_te2_{path}", (768, 768))


def test_a_part_that_the_base_does_not_have_is_named_with_what_the_base_is() -> None:
    base = BaseNames({f"model.diffusion_model.{n}": s for n, s in key_list("sdxl").tensors.items()})
    with pytest.raises(
        MatchError,
        match=r"a module of the first text encoder, which the base does not have "
        r"\(it is SDXL, original layout\)",
    ):
        base.match("lora_te1_text_model_encoder_layers_0_mlp_fc1.weight", (3072, 768))


@pytest.mark.parametrize(
    ("model", "target", "what"),
    [
        ("clip_l", "lora_unet_mid_block_attentions_0_proj_in", "the model that makes the image"),
        ("t5_xxl", "unet.mid_block.attentions.0.proj_in", "the model that makes the image"),
        ("vae_sd", "lora_te_text_model_encoder_layers_0_mlp_fc1", "the first text encoder"),
    ],
)
def test_a_model_alone_has_no_modules_of_another_kind(model: str, target: str, what: str) -> None:
    base = BaseNames(key_list(model).tensors)
    with pytest.raises(MatchError, match=f"a module of {what}, which the base does not have"):
        base.match(f"{target}.weight", (320, 320))


@pytest.mark.parametrize(
    ("target", "shape", "stored"),
    [
        # a control LoRA of FLUX.1 reads twice as many channels
        ("img_in.weight", (3072, 128), "transformer.x_embedder.weight [3072, 64]"),
        (
            QKV,
            (9216, 64),
            f"{QKV} [9216, 3072], which is "
            + "; ".join(f"transformer.{SPLIT.format(part)}" for part in "qkv"),
        ),
        ("transformer_blocks.1.attn.to_q.weight", (9216, 3072), f"transformer.{SPLIT}"),
    ],
)
def test_a_tensor_of_another_shape_is_shown_as_the_base_stores_it(
    target: str, shape: tuple[int, ...], stored: str
) -> None:
    base = BaseNames({f"transformer.{name}": shape for name, shape in in_diffusers(FLUX).items()})
    with pytest.raises(MatchError) as refusal:
        base.match(target, shape)
    assert f"with another shape: {stored.format('q')}" in str(refusal.value)


@pytest.mark.parametrize("around", ["model.", "_orig_mod.", "pipe.dit.", "net._orig_mod."])
@pytest.mark.parametrize(
    "target",
    ["transformer.{}", "base_model.model.{}", "lora_unet_double_blocks_1_img_attn_qkv.weight"],
)
def test_a_model_that_is_inside_other_modules_is_recognised(around: str, target: str) -> None:
    base = BaseNames({around + name: shape for name, shape in FLUX.items()})
    assert base.words == "FLUX.1, original layout"
    is_fused = "qkv" in target
    match = base.match(target.format(SPLIT.format("k")), (9216 if is_fused else 3072, 3072))
    runs = (Run(0, 0, 9216),) if is_fused else (Run(0, 3072, 3072),)
    assert (match.name, match.places[0].runs) == (around + QKV, runs)


@pytest.mark.parametrize("root", ["model_ema.diffusion_model.", "control_model.", "ema._orig_mod."])
def test_a_copy_beside_the_model_is_not_meant(root: str) -> None:
    both = ROOTED | {root + name: shape for name, shape in FLUX.items()}
    for target in (
        SPLIT.format("k"),
        f"lora_unet_{SPLIT.format('k')[:-7].replace('.', '_')}.weight",
    ):
        assert BaseNames(both).match(target, (3072, 3072)).name == f"model.diffusion_model.{QKV}"


def test_the_modules_of_an_encoder_of_images_are_not_those_of_one_of_text() -> None:
    """SigLIP has modules of the same names and shapes, in one that only it has."""
    clip = key_list("clip_l").tensors
    assert BaseNames(clip).words == "CLIP, transformers 5 layout"
    assert BaseNames({f"vision_model.{name}": shape for name, shape in clip.items()}).words is None


TWO = {
    f"{folder}.{name}": shape
    for folder in ("transformer", "transformer_2")
    for name, shape in key_list("wan21_t2v").tensors.items()
}


@pytest.mark.parametrize("target", ["lora_unet_blocks_0_ffn_0.weight", "blocks.0.ffn.0.weight"])
def test_of_two_models_that_a_target_fits_the_selected_one_is_meant(target: str) -> None:
    base = BaseNames(TWO)
    shape = TWO["transformer.blocks.0.ffn.0.weight"]
    for stored in (
        f"{folder}.blocks.0.ffn.0.weight" for folder in ("transformer", "transformer_2")
    ):
        assert base.match(target, shape, takes=stored.__eq__).name == stored
        assert present(base.match_name("blocks.0.ffn.0.weight", stored.__eq__)).name == stored
    for takes in (lambda _: True, lambda _: False):
        with pytest.raises(MatchError, match=r"several base .*; only= or skip= says which"):
            base.match(target, shape, takes=takes)


@pytest.mark.parametrize("is_file", [True, False])
def test_the_root_of_another_layout_says_which_model_is_meant(is_file: bool) -> None:
    """The VAE and both text encoders have tensors of one name and shape."""
    models = ("vae_sd", "clip_l", "openclip_g")
    file = (
        "first_stage_model",
        "conditioner.embedders.0.transformer",
        "conditioner.embedders.1.model",
    )
    folder = ("vae", "text_encoder", "text_encoder_2")
    roots, others = (file, folder) if is_file else (folder, file)
    base = BaseNames(
        {
            f"{r}.{n}": s
            for r, m in zip(roots, models, strict=True)
            for n, s in key_list(m).tensors.items()
        }
    )
    for root, other, model in zip(roots, others, models, strict=True):
        for name in key_list(model).tensors:
            assert present(base.match_name(f"{other}.{name}")).name == f"{root}.{name}"


def test_an_adapter_of_one_transformer_of_a_pipeline_is_not_for_another() -> None:
    only = {name: shape for name, shape in TWO.items() if name.startswith("transformer.")}
    target = "transformer_2.blocks.0.ffn.0.weight"
    shape = TWO[target]
    assert BaseNames(TWO).match(target, shape).name == target
    alone = {name.removeprefix("transformer."): shape for name, shape in only.items()}
    assert BaseNames(alone).match(target, shape).name == "blocks.0.ffn.0.weight"
    with pytest.raises(MatchError, match="a module of transformer_2, which the base does not have"):
        BaseNames(only).match(target, shape)


def test_a_model_that_is_not_known_is_searched_by_its_own_names() -> None:
    base = BaseNames({"transformer.h.0.attn.c_attn.weight": (4, 12), "model.norm.weight": (4,)})
    assert base.words is None
    assert base.match("h.0.attn.c_attn.weight", (4, 12)).renaming == "transformer. added"


def test_names_are_compared_by_suffixes_only_if_no_prefix_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a model of experts, tens of thousands of names have the same suffix."""

    def compared(names: Names, target: str) -> NoReturn:
        raise AssertionError(target)

    monkeypatch.setattr(Names, "_same_end", compared)
    base = BaseNames({f"model.layers.{i}.up_proj.weight": (4, 4) for i in range(3)})
    assert base.match("base_model.model.layers.2.up_proj.weight", (4, 4)).renaming
    with pytest.raises(AssertionError):
        base.match("layers.2.up_proj.weight", (4, 5))


@pytest.mark.parametrize("kept", ["text_encoder_2.", "vae."])
def test_a_prefix_never_means_another_model_than_its_own(kept: str) -> None:
    models = {"unet.": "sdxl", "text_encoder_2.": "clip_l", "vae.": "vae_sd"}
    base = BaseNames(
        {
            f"{root}{name}": shape
            for root, model in models.items()
            if root in ("unet.", kept)
            for name, shape in key_list(model).tensors.items()
        }
    )
    with pytest.raises(MatchError, match="a module of the first text encoder, which the base does"):
        base.match("lora_te1_text_model_encoder_layers_0_mlp_fc1.weight", (3072, 768))


def test_a_whole_tensor_is_never_replaced_by_one_with_exchanged_axes() -> None:
    base = BaseNames(key_list("openclip_g").tensors)
    assert base.match_name("text_projection") is not None
    assert base.match_name("text_projection.weight") is None


def test_a_text_encoder_is_what_its_modules_are_whatever_its_root() -> None:
    clip = {f"transformer.{name}": shape for name, shape in key_list("clip_l").tensors.items()}
    assert [component.part for component in BaseNames(clip).components] == ["clip"]
    t5 = {f"text_encoder.{name}": shape for name, shape in key_list("t5_xxl").tensors.items()}
    (name, shape), *_ = ((n, s) for n, s in t5.items() if n.endswith("SelfAttention.q.weight"))
    target = name.replace("text_encoder.", "text_encoders.t5xxl.transformer.")
    assert BaseNames(t5).match(target, shape).name == name


def test_one_of_two_models_with_the_same_names_is_meant_only_if_its_own_prefix_says_so() -> None:
    """Wan 2.2 has two transformers."""
    shapes = key_list("wan21_t2v").tensors
    roots = ("transformer.", "transformer_2.")
    base = BaseNames({f"{root}{name}": shape for root in roots for name, shape in shapes.items()})
    name = "blocks.0.self_attn.q.weight"
    for target in (name, f"diffusion_model.{name}", "lora_unet_blocks_0_self_attn_q.weight"):
        with pytest.raises(MatchError, match="several base tensors fit equally well"):
            base.match(target, shapes[name])
    diffusers = "transformer_2.blocks.0.attn1.to_q.weight"
    assert base.match(diffusers, shapes[name]).name == f"transformer_2.{name}"


def test_a_prefix_that_differs_is_told() -> None:
    match = BaseNames(ROOTED).match(f"diffusion_model.{QKV}", FLUX[QKV])
    assert match.renaming == described("diffusion_model.", "model.diffusion_model.")


@pytest.mark.parametrize("root", ["model.", "language_model.model."])
def test_layers_of_a_language_model_are_not_those_of_an_image_model(root: str) -> None:
    """ERNIE-Image has `layers.0.mlp.up_proj` too."""
    names = ("mlp.up_proj", "mlp.gate_proj")
    shapes = {f"{root}layers.{i}.{name}.weight": (4, 4) for i in range(3) for name in names}
    assert BaseNames(shapes).words is None


def test_a_controlnet_alone_is_not_its_unet() -> None:
    """It has the blocks on the way down, and a convolution after each of them."""
    down = {n: s for n, s in key_list("sdxl").tensors.items() if not n.startswith("out")}
    assert BaseNames(down).words == "SDXL, original layout"
    control = {f"zero_convs.{i}.0.weight": (320, 320, 1, 1) for i in range(9)}
    assert BaseNames(down | control).words is None


def test_the_blocks_of_t5_alone_are_no_encoder_of_text() -> None:
    t5 = key_list("t5_xxl").tensors
    blocks = {name: shape for name, shape in t5.items() if name.startswith("encoder.block.")}
    assert BaseNames(blocks).words is None
    for embedding in ("shared.weight", "encoder.embed_tokens.weight"):
        assert BaseNames({**blocks, embedding: (32128, 4096)}).words == "T5, common layout"
