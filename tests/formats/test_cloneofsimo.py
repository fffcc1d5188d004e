"""Adapters of cloneofsimo's trainer: positions are the layers that its own walk would visit."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

import loratools
from loratools.errors import FormatError, ShapeMismatchError, UnsupportedError
from loratools.formats import decode
from loratools.formats.cloneofsimo.read import USUAL
from loratools.formats.cloneofsimo.walk import Layer, walk_of_text_encoder, walks_of_unet
from loratools.io.bundle import Bundle
from loratools.io.source import Held
from tests.adapters import effects
from tests.narrowing import present

DEFAULT = ["CrossAttention", "Attention", "GEGLU"]
EXTENDED = [*DEFAULT, "ResnetBlock2D"]


def visited(model: nn.Module, classes: Sequence[str]) -> Iterator[Layer]:
    """The layers in modules of these classes, in the order in which they are registered."""
    names = {module: name for name, module in model.named_modules()}
    for ancestor in model.modules():
        if type(ancestor).__name__ in classes:
            for module in ancestor.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    yield Layer(names[module], tuple(module.weight.shape))


def unet(text: int) -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        model: nn.Module = diffusers.UNet2DConditionModel(cross_attention_dim=text)
    return model


@pytest.mark.parametrize("text", [768, 1024])
def test_walk_is_the_order_in_which_diffusers_registers_the_layers(text: int) -> None:
    model = unet(text)
    for classes in (["Attention"], ["GEGLU"], DEFAULT, EXTENDED):
        walks = {walk.layers for walk in walks_of_unet(classes)}
        found = tuple(visited(model, classes))
        assert found in walks
        older = [w for w in walks if w != found and sorted(w) == sorted(found)]
        assert len(older) == ("GEGLU" in classes and "Attention" in classes)


def test_shapes_tell_walks_of_different_layers_apart() -> None:
    walks = [walk for classes in USUAL for walk in walks_of_unet(classes)]
    shapes = {tuple(layer.shape for layer in walk.layers) for walk in walks}
    assert len(shapes) == len({walk.layers for walk in walks}) == 2 * (2 + 1 + 2)


def test_walk_of_a_text_encoder_is_the_order_of_transformers() -> None:
    config = CLIPTextConfig(hidden_size=8, num_hidden_layers=3, intermediate_size=8)
    config.num_attention_heads = 2
    found = list(visited(CLIPTextModel(config), ["CLIPAttention"]))
    walk = walk_of_text_encoder(12, 8)
    assert len(walk.layers) == len(found)
    for one, other in zip(walk.layers, found, strict=True):
        assert one.path.endswith(other.path)
        assert one.shape == other.shape


def stored(name: str, layers: Sequence[Layer], rank: int = 1) -> dict[str, Held]:
    """The tensors that the trainer would store of these layers."""
    tensors = {}
    for position, (_, (rows, *rest)) in enumerate(layers):
        kernel = (1,) * (len(rest) - 1)
        for part, shape in (("up", (rows, rank, *kernel)), ("down", (rank, *rest))):
            key = f"{name}:{position}:{part}"
            tensors[key] = Held(key, torch.zeros(1).expand(shape), "F32")
    return tensors


def files(tensors: Any, **metadata: Any) -> Bundle:
    entries = {name: json.dumps(value) for name, value in metadata.items()}
    return Bundle("here", tensors, entries, None, (), 0)


@pytest.mark.parametrize("classes", [DEFAULT, EXTENDED, ["CrossAttention"]])
@pytest.mark.parametrize("is_stated", [True, False])
def test_file_has_the_targets_of_the_walk_whose_shapes_it_has(
    classes: list[str], is_stated: bool
) -> None:
    for walk in walks_of_unet(classes):
        metadata = {"unet": classes} if is_stated else {}
        adapter = decode(files(stored("unet", walk.layers), **metadata))
        assert list(adapter.updates) == [f"unet.{layer.path}.weight" for layer in walk.layers]
        shapes = [update.delta.shape for update in adapter.updates.values()]
        assert shapes == [layer.shape for layer in walk.layers]


def test_published_file_is_of_the_older_order_and_has_the_embeddings_named(fixtures: Path) -> None:
    path = fixtures / "real/sd15-cloneofsimo-disney-r1/lora_disney.safetensors"
    adapter = loratools.open_adapter(path)
    assert len(adapter.updates) == 144 + 48
    assert list(adapter.inert) == ["<s1>", "<s2>"]
    block = "unet.down_blocks.0.attentions.0.transformer_blocks.0"
    lora = present(adapter.updates[f"{block}.ff.net.0.proj.weight"].delta.low_rank)
    assert (lora.up.keys, lora.down.keys) == (("unet:4:up",), ("unet:4:down",))
    last = adapter.updates["text_encoder.text_model.encoder.layers.11.self_attn.out_proj.weight"]
    assert present(last.delta.low_rank).up.keys == ("text_encoder:47:up",)


def test_list_in_a_pickle_is_read_by_the_shapes_of_its_pairs(tmp_path: Path) -> None:
    walk = walk_of_text_encoder(8, 6)
    torch.manual_seed(0)
    values = [torch.randn(shape) for _ in walk.layers for shape in ((6, 2), (2, 6))]
    torch.save(values, tmp_path / "lora.text_encoder.pt")
    adapter = loratools.open_adapter(tmp_path / "lora.text_encoder.pt", allow_pickle=True)
    names = [f"text_encoder.{layer.path}.weight" for layer in walk.layers]
    assert list(adapter.updates) == names
    expected = values[6].double() @ values[7].double()
    torch.testing.assert_close(effects(adapter)[names[3]], expected)


SD1 = next(iter(walks_of_unet(DEFAULT))).layers
OTHER = (*SD1[:7], Layer("", (320, 2048)), *SD1[8:])


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        (stored("unet", SD1[:-1]), {}, "it has 143 layers, where the trainer visits 144 in Stable"),
        (
            stored("unet", OTHER),
            {},
            r"position 7 is \[320, 2048\], where .*to_v \[320, 768\] in St",
        ),
        (stored("unet", SD1), {"unet": ["Attention"]}, r"position 4 is \[2560, 320\]"),
        (stored("unet", SD1), {"unet": ["Transformer"]}, "it has 144 layers, where .* visits 0"),
        (stored("vae", SD1), {}, "the order of layers is known for unet and text_encoder alone"),
        (stored("text_encoder", [Layer("", (8, 8))] * 6), {}, "it has 6 layers, where .* visits 8"),
    ],
    ids=range(6),
)
def test_order_that_is_not_known_is_refused_and_not_guessed(
    tensors: Any, metadata: Any, message: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"here: .*only their positions, and .*{message}"):
        decode(files(tensors, **metadata))


def test_damaged_files_are_refused_by_what_is_wrong() -> None:
    whole = stored("unet", SD1)
    for key, message in (
        ("unet:3:up", "unet:3: has no up"),
        ("unet:0:down", "unet:0: has no down"),
    ):
        rest = {name: source for name, source in whole.items() if name != key}
        with pytest.raises(FormatError, match=message):
            decode(files(rest))
    with pytest.raises(FormatError, match="here: x: an unknown key: expected a model, a position"):
        decode(files(whole | {"x": whole["unet:0:up"]}))
    for again in ("unet:00:up", "unet:\u0660:up", f"unet:{'1' * 5000}:up"):
        with pytest.raises(FormatError, match="an unknown key"):
            decode(files(whole | {again: whole["unet:0:up"]}))
    for shape in ((), (3,), (320, 2)):
        odd = {"unet:0:up": Held("unet:0:up", torch.zeros(shape), "F32")}
        with pytest.raises(
            ShapeMismatchError, match=r"here: unet:0: up \[.*\] and down \[1, 320\]"
        ):
            decode(files(whole | odd))
    damaged = replace(files(whole), metadata={"unet": "GEGLU"})
    with pytest.raises(FormatError, match="here: unet in the metadata"):
        decode(damaged)


def test_list_of_anything_else_is_no_adapter() -> None:
    for shapes in ([(3,), (3,)], [(3, 2), (3, 2)], [(3, 2)]):
        tensors = {str(n): Held(str(n), torch.zeros(s), "F32") for n, s in enumerate(shapes)}
        with pytest.raises(UnsupportedError, match="here: not an adapter of a known kind"):
            decode(files(tensors))
