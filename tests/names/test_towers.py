"""An adapter of an encoder of text is never merged into an encoder of images, nor the reverse."""

import pytest

from loratools.errors import MatchError
from loratools.names.matching import BaseNames
from tests.names.key_lists import key_list

Shapes = dict[str, tuple[int, ...]]
FC1 = "encoder.layers.{}.mlp.fc1"
SHAPE = (3072, 768)
CLIP: Shapes = key_list("clip_l").tensors
LAYERS: Shapes = {name: shape for name, shape in CLIP.items() if name.startswith("encoder.")}
#: The encoder of images of a CLIP with a width of 768, by the names of transformers 5.
VISION: Shapes = LAYERS | {
    "embeddings.class_embedding": (768,),
    "embeddings.patch_embedding.weight": (768, 3, 16, 16),
    "embeddings.position_embedding.weight": (197, 768),
    "pre_layrnorm.weight": (768,),
    "post_layernorm.weight": (768,),
}
SIGLIP: Shapes = LAYERS | {
    "embeddings.patch_embedding.weight": (768, 3, 16, 16),
    "post_layernorm.weight": (768,),
    "head.probe": (1, 1, 768),
    "head.mlp.fc1.weight": SHAPE,
}
#: An adapter's names of a module of a text encoder.
OF_TEXT = (
    f"lora_te_text_model_{FC1}",
    f"lora_te1_text_model_{FC1}",
    f"lora_te1_{FC1}",
    f"text_encoder.text_model.{FC1}",
    f"text_encoder.{FC1}",
    f"text_encoders.clip_l.transformer.text_model.{FC1}",
    f"text_model.{FC1}",
)


def target(spelling: str, layer: int) -> str:
    module = spelling.format(layer)
    return f"{module.replace('.', '_') if module.startswith('lora_') else module}.weight"


def inside(shapes: Shapes, tower: str) -> Shapes:
    return {f"{tower}.{name}": shape for name, shape in shapes.items()}


@pytest.mark.parametrize("spelling", OF_TEXT)
@pytest.mark.parametrize("level", ["", "vision_model"])
@pytest.mark.parametrize("images", [VISION, SIGLIP, LAYERS])
def test_an_adapter_of_text_is_refused_by_an_encoder_of_images(
    spelling: str, level: str, images: Shapes
) -> None:
    base = BaseNames(inside(images, level) if level else images)
    assert base.words is None
    with pytest.raises(MatchError, match="no such tensor in the base"):
        base.match(target(spelling, 0), SHAPE)
    assert base.match_name(target(spelling, 0)) is None


@pytest.mark.parametrize("spelling", OF_TEXT)
@pytest.mark.parametrize("level", ["", "text_model"])
def test_an_adapter_of_text_is_merged_into_the_encoder_of_text(spelling: str, level: str) -> None:
    base = BaseNames(inside(CLIP, level) if level else CLIP)
    name = f"{FC1.format(0)}.weight"
    assert base.match(target(spelling, 0), SHAPE).name == (f"{level}.{name}" if level else name)


@pytest.mark.parametrize("around", ["vision_model", "vision_tower.vision_model", "visual"])
def test_an_adapter_of_images_is_refused_by_an_encoder_of_text(around: str) -> None:
    of_images = f"{around}.{FC1.format(0)}.weight"
    assert BaseNames(VISION).match(of_images, SHAPE).name == f"{FC1.format(0)}.weight"
    for text in (CLIP, inside(CLIP, "text_model")):
        with pytest.raises(MatchError, match="no such tensor in the base"):
            BaseNames(text).match(of_images, SHAPE)


@pytest.mark.parametrize("spelling", OF_TEXT)
def test_of_two_towers_the_one_of_text_is_meant(spelling: str) -> None:
    """Also where only the other one has the layer."""
    text = {name: shape for name, shape in CLIP.items() if "layers.11." not in name}
    base = BaseNames(inside(text, "text_model") | inside(VISION, "vision_model"))
    assert base.match(target(spelling, 0), SHAPE).name == f"text_model.{FC1.format(0)}.weight"
    with pytest.raises(MatchError, match="no such tensor in the base"):
        base.match(target(spelling, 11), SHAPE)


@pytest.mark.parametrize("around", ["", "clip."])
def test_of_two_towers_the_one_of_images_is_meant(around: str) -> None:
    images = {name: shape for name, shape in VISION.items() if "layers.11." not in name}
    base = BaseNames(inside(CLIP, f"{around}text_model") | inside(images, f"{around}vision_model"))
    name = f"{around}vision_model.{FC1}.weight"
    assert base.match(f"vision_model.{FC1.format(0)}.weight", SHAPE).name == name.format(0)
    with pytest.raises(MatchError, match="no such tensor in the base"):
        base.match(f"vision_model.{FC1.format(11)}.weight", SHAPE)


def test_a_part_of_a_pipeline_is_an_encoder_of_text_if_its_folder_says_so() -> None:
    unet = {f"unet.{name}": shape for name, shape in key_list("sd1").tensors.items()}
    base = BaseNames(unet | inside(LAYERS, "text_encoder"))
    name = f"text_encoder.{FC1.format(0)}.weight"
    assert base.match(f"text_encoder.text_model.{FC1.format(0)}.weight", SHAPE).name == name


@pytest.mark.parametrize("spelling", [one for one in OF_TEXT if "clip_l" not in one])
def test_the_encoder_of_images_in_a_text_encoder_is_not_one_of_text(spelling: str) -> None:
    """HunyuanVideo reads its prompt with LLaVA, which sees too."""
    unet = {f"unet.{name}": shape for name, shape in key_list("sd1").tensors.items()}
    around = "text_encoder.vision_tower.vision_model"
    base = BaseNames(unet | inside(VISION, around))
    with pytest.raises(MatchError, match="no such tensor in the base"):
        base.match(target(spelling, 0), SHAPE)
    name = f"{around}.{FC1.format(0)}.weight"
    of_images = name.replace("vision_tower.vision_model", "vision_tower")
    assert base.match(of_images, SHAPE).name == name


def test_layers_outside_of_both_towers_are_of_neither() -> None:
    """Before transformers 4.52, only the encoder of images had a name in Qwen2-VL."""
    base = BaseNames(
        {
            "model.embed_tokens.weight": (32, 4),
            "model.layers.0.mlp.up_proj.weight": (8, 4),
            "visual.patch_embed.proj.weight": (4, 3, 2, 2),
        }
    )
    for level in ("model.language_model", "language_model.model"):
        found = base.match(f"{level}.layers.0.mlp.up_proj.weight", (8, 4))
        assert found.name == "model.layers.0.mlp.up_proj.weight"


def test_the_blocks_of_an_openclip_that_reads_no_text_are_not_those_of_one_that_does() -> None:
    blocks = {
        n: s for n, s in key_list("openclip_h").tensors.items() if n.startswith("transformer")
    }
    images = blocks | {"class_embedding": (1024,), "conv1.weight": (1024, 3, 14, 14)}
    for base in (BaseNames(images), BaseNames(blocks), BaseNames(inside(images, "visual"))):
        assert base.words is None
        with pytest.raises(MatchError, match="no such tensor in the base"):
            base.match(f"text_encoder.text_model.{FC1.format(0)}.weight", (4096, 1024))
    text = BaseNames(key_list("openclip_h").tensors)
    with pytest.raises(MatchError, match="no such tensor in the base"):
        text.match("visual.transformer.resblocks.0.mlp.c_fc.weight", (4096, 1024))


@pytest.mark.parametrize("embedding", ["embeddings.token_embedding", "embed_tokens"])
def test_the_level_that_transformers_5_leaves_out_is_one_of_a_model_that_reads_text(
    embedding: str,
) -> None:
    """SigLIP has an encoder of text too, which is not CLIP's: only names without a prefix fit."""
    base = BaseNames({**LAYERS, f"{embedding}.weight": (32000, 768), "head.weight": (768, 768)})
    assert base.words is None
    assert base.match(f"text_model.{FC1.format(0)}.weight", SHAPE).name == f"{FC1.format(0)}.weight"
    with pytest.raises(MatchError, match="no such tensor in the base"):
        base.match(target(OF_TEXT[0], 0), SHAPE)
