"""Names in another format: those that say the same there, and those that are refused, with why."""

import re
from collections.abc import Collection

import pytest

from loratools.names.components import Style
from loratools.names.translated import Translation
from loratools.names.translated import translated as translated_shapes
from tests.names.key_lists import key_list
from tests.names.spelled import MODELS, spelled

CLIP = "text_model.encoder.layers.3.self_attn.q_proj"
T5 = "encoder.block.3.layer.0.SelfAttention.q"
SD1 = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
SDXL = "up_blocks.0.attentions.0.transformer_blocks.9.attn1.to_q"
SGM = "input_blocks.4.1.transformer_blocks.1.attn1.to_q"
SGM_IN_DIFFUSERS = "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q"
LDM = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
FLUX = "double_blocks.0.img_attn.qkv"
FLUX_ALONE = "single_blocks.3.linear1"


#: The shape of every target and of every tensor of a base, where it does not matter.
SHAPE = (12, 4)


def translated(
    names: Collection[str], style: Style, other: Style, base: Collection[str] = ()
) -> Translation:
    return translated_shapes(dict.fromkeys(names, SHAPE), style, other, dict.fromkeys(base, SHAPE))


def names_of(found: Translation) -> dict[str, str]:
    """The new names of targets that are one tensor each, with the same rows."""
    assert all(runs == ((0, 0, 12),) for ((_, runs, _),) in found.pieces.values())
    return {old: piece.name for old, (piece,) in found.pieces.items()}


def flat(path: str) -> str:
    return path.replace(".", "_")


def weights(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.weight" for name in names)


#: An adapter's names in two styles, which are each other's translation.
BOTH_WAYS: list[tuple[Style, tuple[str, ...], Style, tuple[str, ...]]] = [
    ("modules", ("model.layers.0.mlp.up_proj",), "language", ("model.layers.0.mlp.up_proj",)),
    ("modules", ("lm_head", "model.embed_tokens"), "language", ("lm_head", "model.embed_tokens")),
    ("diffusers", (f"unet.{SD1}",), "flattened", (f"lora_unet_{flat(SD1)}",)),
    (
        "diffusers",
        (f"unet.{SD1}", f"text_encoder.{CLIP}"),
        "flattened",
        (f"lora_unet_{flat(SD1)}", f"lora_te_{flat(CLIP)}"),
    ),
    (
        "diffusers",
        (f"unet.{SDXL}", f"text_encoder.{CLIP}"),
        "flattened",
        (f"lora_unet_{flat(SDXL)}", f"lora_te1_{flat(CLIP)}"),
    ),
    (
        "diffusers",
        (f"text_encoder.{CLIP}", f"text_encoder_2.{CLIP}"),
        "flattened",
        (f"lora_te1_{flat(CLIP)}", f"lora_te2_{flat(CLIP)}"),
    ),
    (
        "comfyui",
        (f"diffusion_model.{FLUX}", f"diffusion_model.{FLUX_ALONE}"),
        "flattened",
        (f"lora_unet_{flat(FLUX)}", f"lora_unet_{flat(FLUX_ALONE)}"),
    ),
    (
        "comfyui",
        (
            f"diffusion_model.{SGM}",
            f"text_encoders.clip_l.transformer.{CLIP}",
            f"text_encoders.clip_g.transformer.{CLIP}",
        ),
        "flattened",
        (f"lora_unet_{flat(SGM)}", f"lora_te1_{flat(CLIP)}", f"lora_te2_{flat(CLIP)}"),
    ),
    (
        "comfyui",
        (f"diffusion_model.{FLUX_ALONE}", f"text_encoders.t5xxl.transformer.{T5}"),
        "flattened",
        (f"lora_unet_{flat(FLUX_ALONE)}", f"lora_te3_{flat(T5)}"),
    ),
    (
        "comfyui",
        ("diffusion_model.blocks.0.cross_attn.k_img",),
        "flattened",
        ("lora_unet_blocks_0_cross_attn_k_img",),
    ),
    (
        "comfyui",
        ("diffusion_model.transformer_blocks.0.img_mod.1",),
        "diffusers",
        ("transformer.transformer_blocks.0.img_mod.1",),
    ),
    (
        "flattened",
        ("lora_unet_transformer_blocks_0_img_mlp_net_0_proj",),
        "diffusers",
        ("transformer.transformer_blocks.0.img_mlp.net.0.proj",),
    ),
    ("diffusers", (f"unet.{SD1}",), "comfyui", (f"diffusion_model.{LDM}",)),
    ("flattened", (f"lora_unet_{flat(SD1)}",), "comfyui", (f"diffusion_model.{LDM}",)),
    ("comfyui", (f"diffusion_model.{SGM}",), "diffusers", (f"unet.{SGM_IN_DIFFUSERS}",)),
    (
        "comfyui",
        ("diffusion_model.single_blocks.0.modulation.lin",),
        "diffusers",
        ("transformer.single_transformer_blocks.0.norm.linear",),
    ),
    (
        "diffusers",
        ("transformer.layers.0.attention.to_out.0", "transformer.layers.0.adaLN_modulation.0"),
        "comfyui",
        ("diffusion_model.layers.0.attention.out", "diffusion_model.layers.0.adaLN_modulation.0"),
    ),
    ("modules", (SD1,), "diffusers", (f"unet.{SD1}",)),
    ("modules", (SD1,), "flattened", (f"lora_unet_{flat(SD1)}",)),
    ("modules", (FLUX,), "comfyui", (f"diffusion_model.{FLUX}",)),
]


@pytest.mark.parametrize(("style", "names", "other", "theirs"), BOTH_WAYS)
def test_names_that_say_the_same_are_translated_both_ways(
    style: Style, names: tuple[str, ...], other: Style, theirs: tuple[str, ...]
) -> None:
    there = translated(weights(*names), style, other)
    assert there.refused == {}
    assert tuple(names_of(there).values()) == weights(*theirs)
    back = translated(weights(*theirs), other, style)
    assert back.refused == {}
    assert tuple(names_of(back).values()) == weights(*names)


#: Names, and a part of the reason why each has no name in another style.
REFUSED: list[tuple[Style, tuple[str, ...], Style, str]] = [
    ("modules", ("model.layers.0.mlp.up_proj",), "flattened", "no matrix of an image model"),
    ("modules", (CLIP,), "diffusers", "nothing says in which"),
    ("modules", (SD1,), "language", "has language models"),
    ("modules", ("transformer.h.0.attn.c_attn",), "language", "not known that MLX and PEFT"),
    ("modules", ("model.layers.0.mlp.experts.3.up_proj",), "language", "not known that MLX and"),
    ("language", ("model.h.0.attn.c_attn",), "modules", "not known that MLX and PEFT"),
    ("language", ("model.layers.0.mlp.switch_mlp.up_proj",), "modules", "not known that MLX and"),
    ("modules", ("time_embedding.linear_1",), "diffusers", "may be unet or transformer"),
    ("modules", (FLUX_ALONE, SD1), "comfyui", "no known model has all of these"),
    ("flattened", tuple(f"lora_unet_{flat(p)}" for p in (FLUX_ALONE, SD1)), "comfyui", "no known"),
    ("apart", (SGM,), "comfyui", "in no part of a pipeline"),
    ("diffusers", (f"unet.{SD1}",), "language", "has language models"),
    ("diffusers", (f"unet.{SD1}", f"text_encoder.{CLIP}"), "modules", "of 2 models"),
    (
        "diffusers",
        ("transformer.transformer_blocks.0.ff_context.net.2",),
        "flattened",
        "of .*, FLUX.1, .* or others, for which kohya's format has different names; base= decides",
    ),
    ("diffusers", (f"text_encoder.{CLIP}",), "flattened", "SD 1, SD 2 or SDXL"),
    ("diffusers", (f"text_encoder.{CLIP}",), "comfyui", "SD 1, SD 2 or SDXL"),
    ("flattened", (f"lora_te_{flat(CLIP)}",), "comfyui", "SD 1 or SD 2, .* shapes do not tell"),
    ("diffusers", ("transformer.unheard_of.0.to_q",), "flattened", "of no known model"),
    ("diffusers", ("prior.layers.0.to_q",), "flattened", "in no part of a pipeline"),
    (
        "flattened",
        (f"lora_unet_{flat(FLUX_ALONE)}",),
        "diffusers",
        "how many rows are whose is not known; see base=",
    ),
    ("flattened", (f"lora_te3_{flat(T5)}",), "diffusers", "text_encoder_2 of Flux"),
    ("flattened", ("lora_unet_unheard_of_0_to_q",), "comfyui", "see base="),
    ("flattened", ("lora_te_layers_0_mlp_up_proj",), "comfyui", "in no part of a pipeline"),
    (
        "comfyui",
        ("diffusion_model.double_blocks.0.no_such",),
        "diffusers",
        "may be any component of a",
    ),
]


@pytest.mark.parametrize(("style", "names", "other", "reason"), REFUSED)
def test_names_that_would_have_to_be_guessed_are_refused_with_the_reason(
    style: Style, names: tuple[str, ...], other: Style, reason: str
) -> None:
    found = translated(weights(*names), style, other)
    assert found.pieces == {}
    assert [*found.refused] == [*weights(*names)]
    assert all(re.search(reason, text) for text in found.refused.values()), found.refused


def test_a_base_settles_a_name_of_no_known_model() -> None:
    name = "lora_unet_unheard_of_0_to_q.weight"
    base = ("model.diffusion_model.unheard_of.0.to_q.weight", "model.diffusion_model.x.weight")
    found = translated([name], "flattened", "comfyui", base)
    assert names_of(found) == {name: "diffusion_model.unheard_of.0.to_q.weight"}


def test_a_base_in_which_a_name_may_be_two_modules_does_not_settle_it() -> None:
    base = ("a_b.c.weight", "a.b_c.weight")
    found = translated(["lora_unet_a_b_c.weight"], "flattened", "comfyui", base)
    assert "may be a.b_c or a_b.c" in found.refused["lora_unet_a_b_c.weight"]


def test_a_base_settles_which_of_several_models_a_name_is_of() -> None:
    """Names of Qwen-Image's attention are those of Flux and SD 3 in diffusers, too."""
    name = "transformer.transformer_blocks.0.attn.add_q_proj.weight"
    alone = translated([name], "diffusers", "flattened")
    assert "base= decides" in alone.refused[name]
    base = ("transformer_blocks.0.img_mod.1.weight", "transformer_blocks.0.attn.to_q.weight")
    found = translated([name], "diffusers", "flattened", base)
    assert names_of(found) == {name: "lora_unet_transformer_blocks_0_attn_add_q_proj.weight"}


@pytest.mark.parametrize(
    ("base", "prefix"),
    [
        ("conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.weight", "lora_te1_"),
        ("up_blocks.0.attentions.0.proj_in.weight", "lora_te1_"),
        ("model.diffusion_model.output_blocks.11.1.proj_in.weight", "lora_te_"),
        ("unet.down_blocks.0.attentions.0.proj_in.weight", "lora_te_"),
    ],
)
def test_a_base_settles_whether_it_has_one_text_encoder_or_two(base: str, prefix: str) -> None:
    name = f"text_encoder.{CLIP}.weight"
    found = translated([name], "diffusers", "flattened", (base,))
    assert names_of(found) == {name: f"{prefix}{flat(CLIP)}.weight"}


def test_t5_is_the_text_encoder_that_it_is_in_its_pipeline() -> None:
    flux = translated(weights(f"lora_te2_{flat(T5)}"), "flattened", "diffusers")
    assert [*names_of(flux).values()] == [f"text_encoder_2.{T5}.weight"]
    sd3 = weights(f"lora_te3_{flat(T5)}", f"lora_te2_{flat(CLIP)}")
    found = translated(sd3, "flattened", "diffusers")
    assert [*names_of(found).values()] == [
        *weights(f"text_encoder_3.{T5}", f"text_encoder_2.{CLIP}")
    ]


def test_names_with_dots_in_kohyas_format_are_those_of_one_model() -> None:
    name = "transformer_blocks.0.img_mod.1.weight"
    assert names_of(translated([name], "flattened", "diffusers")) == {name: f"transformer.{name}"}
    with_prefix = f"transformer.{name}"
    found = translated([with_prefix], "flattened", "comfyui")
    assert names_of(found) == {with_prefix: f"diffusion_model.{name}"}


def test_other_names_of_a_file_settle_what_one_of_them_leaves_open() -> None:
    """HunyuanVideo has `img_attn_qkv` where Flux has `img_attn.qkv`; ComfyUI has the latter."""
    both = weights(
        "lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_double_blocks_0_img_mlp_fc1"
    )
    found = translated(both, "flattened", "modules")
    assert names_of(found)[both[0]] == "double_blocks.0.img_attn_qkv.weight"
    alone = translated(both[:1], "flattened", "modules")
    assert "may be double_blocks.0.img_attn.qkv or" in alone.refused[both[0]]
    assert translated(both[:1], "flattened", "comfyui").refused == {}


def pieces(
    target: tuple[str, int], style: Style, other: Style, **beside: tuple[int, ...]
) -> list[tuple[str, list[tuple[int, int, int]], int]]:
    """What a target with this many rows is in another style, beside others of an adapter."""
    name, rows = f"{target[0]}.weight", target[1]
    shapes = {name: (rows, 4), **{key.replace("__", "."): shape for key, shape in beside.items()}}
    found = translated_shapes(shapes, style, other)
    assert found.refused == {}
    return [
        (piece.name, [(run.begin, run.at, run.count) for run in piece.runs], piece.rows)
        for piece in found.pieces[name]
    ]


def test_a_fused_target_is_several_pieces_each_with_its_rows() -> None:
    parts = [
        (f"transformer.transformer_blocks.0.attn.to_{p}.weight", at) for at, p in enumerate("qkv")
    ]
    found = pieces((f"diffusion_model.{FLUX}", 12), "comfyui", "diffusers")
    assert found == [(name, [(4 * at, 0, 4)], 4) for name, at in parts]


def test_a_part_is_a_piece_of_the_fused_tensor() -> None:
    single = {"transformer__time_text_embed__text_embedder__linear_1__weight": (4, 4)}
    name = "transformer.single_transformer_blocks.0.proj_mlp"
    found = pieces((name, 16), "diffusers", "flattened", **single)
    assert found == [(f"lora_unet_{flat('single_blocks.0.linear1')}.weight", [(0, 12, 16)], 28)]


def test_swapped_halves_are_two_runs() -> None:
    beside = {"transformer__single_transformer_blocks__0__proj_mlp__weight": (16, 4)}
    found = pieces(("transformer.norm_out.linear", 6), "diffusers", "comfyui", **beside)
    assert found[0][1:] == ([(0, 3, 3), (3, 0, 3)], 6)


def test_what_depends_on_the_number_of_blocks_needs_a_base() -> None:
    """The last block of SD 3 has the halves of one modulation swapped."""
    shapes = {
        f"diffusion_model.joint_blocks.{i}.context_block.adaLN_modulation.1.weight": (12, 4)
        for i in range(3)
    }
    alone = translated_shapes(shapes, "comfyui", "diffusers")
    *others, last = shapes
    assert [*alone.pieces] == others
    assert "in the last block if the model has no more of them" in alone.refused[last]
    sd3 = key_list("sd3").tensors
    modulation = "joint_blocks.{}.context_block.adaLN_modulation.1.weight"
    base = {
        f"model.diffusion_model.{name}": (*shape[:1], 4, *shape[2:]) for name, shape in sd3.items()
    }
    for number, runs in ((22, 1), (23, 2)):
        name = f"diffusion_model.{modulation.format(number)}"
        target = {name: (sd3[modulation.format(number)][0], 4)}
        found = translated_shapes(target, "comfyui", "diffusers", base)
        assert [len(piece.runs) for piece in found.pieces[name]] == [runs], found.refused


def test_rows_of_unknown_number_need_a_base_or_all_parts() -> None:
    """Lumina 2 has fewer keys than queries."""
    fused = {"diffusion_model.layers.0.attention.qkv.weight": (10, 4)}
    alone = translated_shapes(fused, "comfyui", "diffusers")
    (reason,) = alone.refused.values()
    assert reason == "how many rows are whose is not known; see base="
    parts = {
        f"transformer.layers.0.attn.to_{p}.weight": (n, 4)
        for p, n in zip("qkv", (6, 2, 2), strict=True)
    }
    found = translated_shapes(parts, "diffusers", "comfyui")
    assert [piece.runs[0].at for (piece,) in found.pieces.values()] == [0, 6, 8]
    assert {piece.rows for (piece,) in found.pieces.values()} == {10}
    del parts["transformer.layers.0.attn.to_k.weight"]
    some = translated_shapes(parts, "diffusers", "comfyui")
    assert all("of unknown size; see base=" in text for text in some.refused.values())


def test_a_base_of_another_model_is_named_and_refused() -> None:
    base = {
        f"model.diffusion_model.{name}": shape for name, shape in key_list("sdxl").tensors.items()
    }
    found = translated_shapes(
        {f"lora_unet_{flat(FLUX)}.weight": (12, 4)}, "flattened", "diffusers", base
    )
    (reason,) = found.refused.values()
    assert reason == (
        "a module of Chroma, FLUX.1, FLUX.2 or HunyuanVideo, and the base is SDXL, original layout"
    ), reason


def test_a_base_with_another_shape_is_refused() -> None:
    base = {
        f"model.diffusion_model.{name}": shape for name, shape in key_list("flux1").tensors.items()
    }
    target = {f"lora_unet_{flat(FLUX)}.weight": (12, 4)}
    (reason,) = translated_shapes(target, "flattened", "diffusers", base).refused.values()
    assert reason == "has the shape [12, 4], and in the base [9216, 3072]"


def test_one_models_modules_are_named_in_the_layout_of_the_base() -> None:
    flux = key_list("flux1").tensors
    name = f"{FLUX}.weight"
    parts = [f"transformer_blocks.0.attn.to_{p}.weight" for p in "qkv"]
    theirs = dict.fromkeys(parts, (3072, 3072))
    found = translated_shapes(theirs, "modules", "modules", flux)
    assert {piece.name for (piece,) in found.pieces.values()} == {name}
    base = {
        **theirs,
        "context_embedder.weight": (3072, 4096),
        "single_transformer_blocks.0.proj_mlp.weight": (12288, 3072),
    }
    back = translated_shapes({name: flux[name]}, "modules", "modules", base)
    assert [piece.name for piece in back.pieces[name]] == parts


def test_the_names_of_the_authors_are_those_that_comfyui_has() -> None:
    """HunyuanVideo's, which musubi-tuner trains by the authors' names."""
    shapes = {
        f"lora_unet_{name}.weight": (12, 4)
        for name in ("double_blocks_0_img_attn_qkv", "double_blocks_0_img_mlp_fc1")
    }
    found = translated_shapes(shapes, "flattened", "comfyui")
    names = [piece.name for (piece,) in found.pieces.values()]
    assert names == [
        f"diffusion_model.double_blocks.0.{p}.weight" for p in ("img_attn.qkv", "img_mlp.0")
    ]


def test_families_that_may_have_the_same_names_need_not_be_told_apart() -> None:
    """HunyuanVideo's blocks are those of FLUX.1 in diffusers, and in ComfyUI."""
    part = "transformer.single_transformer_blocks.0.proj_mlp.weight"
    names = {part: (16, 4), "transformer.transformer_blocks.0.ff.net.2.weight": (12, 4)}
    found = translated_shapes(names, "diffusers", "flattened")
    assert [piece.name for (piece,) in found.pieces.values()] == [
        "lora_unet_single_blocks_0_linear1.weight",
        "lora_unet_double_blocks_0_img_mlp_2.weight",
    ]
    video = {**names, "transformer.context_embedder.proj_in.weight": (12, 4)}
    found = translated_shapes(video, "diffusers", "flattened")
    assert [piece.name for (piece,) in found.pieces.values()] == [
        "lora_unet_single_blocks_0_linear1.weight",
        "lora_unet_double_blocks_0_img_mlp_fc2.weight",
        "lora_unet_txt_in_input_embedder.weight",
    ]


@pytest.mark.parametrize(("width", "name"), [(768, "clip_l"), (1024, "clip_h")])
def test_the_width_of_the_only_text_encoder_tells_which_it_is(width: int, name: str) -> None:
    target = f"lora_te_{flat(CLIP)}.weight"
    found = translated_shapes({target: (width, width)}, "flattened", "comfyui")
    (piece,) = found.pieces[target]
    assert piece.name == f"text_encoders.{name}.transformer.{CLIP}.weight"


def test_names_that_a_program_uses_in_another_format_are_known() -> None:
    """ai-toolkit writes diffusers' names of Z-Image under ComfyUI's prefix."""
    names = ("layers.0.attention.to_out.0", "layers.0.adaLN_modulation.0")
    found = translated(weights(*(f"diffusion_model.{n}" for n in names)), "comfyui", "comfyui")
    assert [*names_of(found).values()] == [
        "diffusion_model.layers.0.attention.out.weight",
        "diffusion_model.layers.0.adaLN_modulation.0.weight",
    ]


def test_a_base_shows_by_whose_names_a_flattened_name_is() -> None:
    names = ["double_blocks.0.img_attn_qkv.weight", "double_blocks.0.img_mlp.fc1.weight"]
    flattened = weights(*(f"lora_unet_{flat(n.removesuffix('.weight'))}" for n in names))
    shapes = dict.fromkeys(key_list("hunyuan_video").tensors, SHAPE)
    found = translated_shapes(dict.fromkeys(flattened, SHAPE), "flattened", "modules", shapes)
    assert [*names_of(found).values()] == names


#: The beginnings of names by their style. Names with `processor`, and those of parts of a fused
#: weight, are read as others before they are translated.
STYLES: dict[str, Style] = {
    "lora_unet_": "flattened",
    "lycoris_": "flattened",
    "diffusion_model.": "comfyui",
    "transformer.": "diffusers",
    "unet.": "diffusers",
}
#: Models that make images. Lumina 2 has fewer keys than queries, and a fused base does not say how
#: many.
SPELLED = [m for m in MODELS if not m.startswith(("clip", "openclip", "t5")) and m != "lumina2"]


@pytest.mark.parametrize("model", SPELLED)
def test_what_programs_call_a_module_is_what_diffusers_calls_it(model: str) -> None:
    shapes = key_list(model).tensors
    base = {f"model.diffusion_model.{name}": shape for name, shape in shapes.items()}
    pairs, spellings = spelled(model)
    sizes = {pair.original: shapes[f"{pair.original}.weight"] for pair in pairs}
    for spelling in spellings:
        targets, expected = {}, {}
        for own, (side, name) in spelling.modules.items():
            style = next((STYLES[prefix] for prefix in STYLES if own.startswith(prefix)), None)
            own_pairs = [pair for pair in pairs if pair.name(side) == name]
            if style is None or "processor" in own or "in parts" in spelling.program:
                continue
            rows, *others = sizes[own_pairs[0].original]
            if side == "diffusers" and own_pairs[0].ranges:
                rows = sum(end - begin for begin, end in own_pairs[0].ranges)
            targets[f"{own}.weight"] = (rows, *others)
            expected[f"{own}.weight"] = {f"{pair.diffusers}.weight" for pair in own_pairs}
        if targets:
            found = translated_shapes(targets, style_of(targets), "diffusers", base)
            assert found.refused == {}, spelling.program
            names = {
                old: {piece.name.partition(".")[2] for piece in some}
                for old, some in found.pieces.items()
            }
            assert names == expected, spelling.program


def style_of(targets: Collection[str]) -> Style:
    return next(style for name in targets for p, style in STYLES.items() if name.startswith(p))
