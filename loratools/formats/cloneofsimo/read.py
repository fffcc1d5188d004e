"""Reads adapters of cloneofsimo's trainer, which stores factors by the position of their layer.

A safetensors file has `unet:0:up`, `unet:0:down`, `text_encoder:0:up`, … and, in its metadata, the
classes of modules that were visited. A pickle is a list for one model: up, down, up, down, ….
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import NamedTuple, final

from loratools.adapter import Adapter
from loratools.errors import (
    FormatError,
    ShapeMismatchError,
    UnsupportedError,
    counted,
    listing,
    shorten,
)
from loratools.formats import Sureness
from loratools.formats._modules.reading import adapter_of
from loratools.formats.cloneofsimo.walk import (
    ATTENTION,
    PERCEPTRON,
    RESNET,
    Layer,
    Shape,
    Walk,
    walk_of_text_encoder,
    walks_of_unet,
)
from loratools.io.bundle import Bundle
from loratools.io.json import parse_json
from loratools.io.source import Source

#: A position is spelled in one way only, so that two keys are never one tensor.
_KEY = re.compile(r"(\w+):(0|[1-9][0-9]{0,8}):(up|down)")
_UNET, _TEXT = "unet", "text_encoder"
_EMBEDDING = "<embed>"
#: The sets of classes that the trainer has visited in a U-Net, for files that do not say it.
USUAL = (
    frozenset({*ATTENTION, PERCEPTRON}),
    ATTENTION,
    frozenset({*ATTENTION, PERCEPTRON, RESNET}),
)


@final
class _Pair(NamedTuple):
    """The factors of one layer."""

    up: Source
    down: Source

    @property
    def shape(self) -> Shape:
        """The shape of the layer's weight."""
        return (*self.up.shape[:1], *self.down.shape[1:])


def claim(bundle: Bundle) -> Sureness:
    """How sure the dialect is: its keys are positions, in a list or after the name of a model."""
    likely = (key for key in bundle.tensors if key.endswith((":up", ":down")))
    is_own = _is_list(bundle) or any(map(_KEY.fullmatch, likely))
    return Sureness.KEYS if is_own else Sureness.NO


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The adapter in a file; a target is a layer's path in diffusers, after `unet.` or so.

    Raises:
        FormatError: a position or a factor is missing, or a key is unknown.
        ShapeMismatchError: the factors of a layer do not fit each other.
        UnsupportedError: the shapes are not those of the layers in a model whose order is known.
    """
    models, embeddings = ({None: _listed(bundle)}, {}) if _is_list(bundle) else _sorted(bundle)
    modules: dict[str, Mapping[str, Source]] = {}
    for model, pairs in models.items():
        where = bundle.where if model is None else f"{bundle.where}: {model}"
        component, walk = _walk(where, model, pairs, bundle.metadata)
        for layer, pair in zip(walk.layers, pairs, strict=True):
            parts = {"lora_down.weight": pair.down, "lora_up.weight": pair.up}
            modules[f"{component}.{layer.path}"] = parts
    adapter = adapter_of(bundle, "cloneofsimo", modules)
    return replace(adapter, inert=embeddings)


def _is_list(bundle: Bundle) -> bool:
    """Whether the file is a list of pairs; its tensors then have their positions for names."""
    count = len(bundle.tensors)
    if "0" not in bundle.tensors or count % 2:
        return False
    return list(bundle.tensors) == [*map(str, range(count))] and all(map(_fit, _listed(bundle)))


def _fit(pair: _Pair) -> bool:
    up, down = pair.up.shape, pair.down.shape
    return len(up) == len(down) >= 2 and up[1] == down[0] and not set(up[2:]) - {1}


def _listed(bundle: Bundle) -> Sequence[_Pair]:
    tensors = tuple(bundle.tensors.values())
    return tuple(map(_Pair, tensors[::2], tensors[1::2]))


def _sorted(bundle: Bundle) -> tuple[Mapping[str | None, Sequence[_Pair]], Mapping[str, str]]:
    """The pairs of each model by position; and the embeddings, each with a reason."""
    models: dict[str, dict[int, dict[str, Source]]] = {}
    embeddings = {}
    for key, source in bundle.tensors.items():
        if match := _KEY.fullmatch(key):
            model, position, part = match.groups()
            models.setdefault(model, {}).setdefault(int(position), {})[part] = source
        elif bundle.metadata.get(key) == _EMBEDDING or re.fullmatch(r"<.+>", key):
            embeddings[key] = "the embedding of a new word, as textual inversion trains it"
        else:
            raise FormatError(
                f"{bundle.where}: {shorten(key)}: an unknown key: expected a model, a position and "
                f"up or down, such as unet:0:up",
                tensor=key,
            )
    found: dict[str | None, Sequence[_Pair]] = {
        model: tuple(_pairs(bundle.where, model, own)) for model, own in models.items()
    }
    return found, embeddings


def _pairs(where: str, model: str, own: Mapping[int, Mapping[str, Source]]) -> Iterator[_Pair]:
    for position in range(max(own) + 1):
        parts = own.get(position, {})
        if missing := [part for part in ("up", "down") if part not in parts]:
            raise FormatError(f"{where}: {model}:{position}: has no {listing(missing)}")
        pair = _Pair(parts["up"], parts["down"])
        if not _fit(pair):
            raise ShapeMismatchError(
                f"{where}: {model}:{position}: up {list(pair.up.shape)} and down "
                f"{list(pair.down.shape)} do not fit: expected (out, rank, 1...) and "
                f"(rank, in, kernel...)"
            )
        yield pair


def _walk(
    where: str, model: str | None, pairs: Sequence[_Pair], metadata: Mapping[str, str]
) -> tuple[str, Walk]:
    """The component that a model is, and the walk through it that has these shapes.

    Walks of different layers have different shapes, as a test shows.
    """
    classes = _classes(where, model, metadata)
    candidates = {
        _UNET: [walk for one in classes or USUAL for walk in walks_of_unet(one)],
        _TEXT: [walk_of_text_encoder(len(pairs), pairs[0].shape[0])],
    }
    if model is not None:
        candidates = {model: candidates[model]} if model in candidates else {}
    shapes = [pair.shape for pair in pairs]
    for component, walks in candidates.items():
        for walk in walks:
            if [layer.shape for layer in walk.layers] == shapes:
                return component, walk
    every = [walk for walks in candidates.values() for walk in walks]
    raise UnsupportedError(
        f"{where}: the names of its layers are not stored, only their positions, and "
        f"{_difference(shapes, every)}",
        hint="only the trainer itself can merge it, into that model",
    )


def _classes(
    where: str, model: str | None, metadata: Mapping[str, str]
) -> Sequence[frozenset[str]] | None:
    """The set of classes that the metadata says were visited in a U-Net; None if it does not."""
    if model != _UNET or model not in metadata:
        return None
    found = parse_json(metadata[model].encode(), f"{where} in the metadata")
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise FormatError(f"{where} in the metadata: {found!r:.80} is no list of classes")
    return [frozenset(found)]


def _difference(shapes: Sequence[Shape], walks: Iterable[Walk]) -> str:
    """What distinguishes shapes from the walk that has the most of them in common."""
    nearest = max(walks, key=lambda walk: _common(shapes, walk.layers), default=None)
    if nearest is None:
        return "the order of layers is known for unet and text_encoder alone"
    position = _common(shapes, nearest.layers)
    if position == len(nearest.layers) or position == len(shapes):
        return (
            f"it has {counted(len(shapes), 'layer')}, where the trainer visits "
            f"{len(nearest.layers)} in {nearest.family}"
        )
    layer = nearest.layers[position]
    return (
        f"the layer at position {position} is {list(shapes[position])}, where the trainer visits "
        f"{layer.path} {list(layer.shape)} in {nearest.family}"
    )


def _common(shapes: Sequence[Shape], layers: Sequence[Layer]) -> int:
    """How many of the first shapes are those of the first layers."""
    pairs = zip(shapes, layers, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1].shape, pairs))
