"""The models that a base consists of: a denoiser, text encoders and others, by their names.

A checkpoint in a single file has the modules of each model under a root of its own, and so has a
folder of diffusers, where the roots are the names of its folders.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from loratools.names.architectures import Recognised, recognised, recognised_whole
from loratools.names.components import Label, Part

#: What precedes the names of the denoiser's own modules.
_DENOISER = r"(model\.)?diffusion_model\.|unet\.|transformer(_\d)?\.|net\."
#: What precedes the names of each model's own modules, and which part that may be.
_ROOTS: tuple[tuple[str, Part], ...] = (
    (_DENOISER, "denoiser"),
    (r"conditioner\.embedders\.1\.(transformer|model)\.", "clip_g"),
    (r"conditioner\.embedders\.0\.model\.", "clip_g"),  # SDXL's refiner has this one alone
    (r"text_encoders\.clip_g\.transformer\.|text_encoder_2\.", "clip_g"),
    (r"(cond_stage_model|conditioner\.embedders\.0)\.(transformer|model)\.", "clip"),
    (r"text_encoders\.clip_[lh]\.transformer\.|text_encoder\.", "clip"),
    (r"text_encoders\.t5\w*\.transformer\.|text_encoder_3\.", "t5"),
    (r"text_encoders\.\w+\.transformer\.", "other"),
    (r"first_stage_model\.|vae\.", "vae"),
)
_ROOT = re.compile("|".join(pattern for pattern, _ in _ROOTS))
#: The components of diffusers that make images.
_DENOISERS = ("unet", "transformer")
_TRANSFORMER = re.compile(r"transformer(_\d)?\.")
_T5 = "encoder.block.0.layer.0."
#: The parts that a prefix of a target may mean, in order: the first that the base has is meant.
_MEANT: dict[Label, tuple[Part, ...]] = {
    "denoiser": ("denoiser",),
    "1": ("clip", "t5", "other"),
    "2": ("clip_g", "t5"),
    "3": ("t5",),
}
_CALLED: dict[Label, str] = {
    "denoiser": "the model that makes the image",
    "1": "the first text encoder",
    "2": "the second text encoder",
    "3": "the third text encoder",
}


@final
@dataclass(frozen=True)
class Component:
    """One model of a base.

    Attributes:
        root: what precedes the names of its modules in the base.
        part: which part of a pipeline it is; `model` if the base is this model alone.
        shapes: the shapes of its tensors by their names without the root.
        found: the architecture and the layout that it was recognised as.
    """

    root: str
    part: Part
    shapes: Mapping[str, tuple[int, ...]]
    found: Recognised | None


def components_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Component, ...]:
    """The models that a base with these tensors consists of; none if it is no image model."""
    if whole := recognised(shapes):
        return (Component("", _part("", whole, shapes), shapes, whole),)
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        match = _ROOT.match(name)
        root = match[0] if match else ""
        groups.setdefault(root, {})[name.removeprefix(root)] = shape
    # Beside models with known roots, one that is inside another module is a copy or a ControlNet.
    is_alone = len(groups) == 1
    found = [
        _recognised(root, group, may_be_inside=is_alone or root != "")
        for root, group in groups.items()
    ]
    if not any(component.found for component in found):
        return ()
    return tuple(component for component in found if component.root or component.found)


def _recognised(
    root: str, shapes: Mapping[str, tuple[int, ...]], *, may_be_inside: bool
) -> Component:
    """The model with this root.

    One that makes images may be inside other modules, such as the wrappers of a running program:
    then their names, with which those of all its tensors begin, are a part of its root. An encoder
    may not, as encoders of text and of images have the same modules inside.
    """
    if found := recognised(shapes):
        return Component(root, _part(root, found, shapes), shapes, found)
    around = ""
    names = shapes if may_be_inside else ()
    for words in zip(*(name.split(".")[:-1] for name in names), strict=False):
        word = words[0]
        if len(set(words)) > 1 or word.isdigit():  # a layer is not a model
            break
        around += f"{word}."
        inside = {name.removeprefix(around): shape for name, shape in shapes.items()}
        found = recognised_whole(inside)
        if found and found.architecture.component in _DENOISERS:
            return Component(root + around, "denoiser", inside, found)
    return Component(root, _part(root, None, shapes), shapes, None)


def in_denoiser(name: str) -> str:
    """A base's name of a tensor, without what may precede the names of the denoiser's modules.

    >>> in_denoiser("model.diffusion_model.input_blocks.0.0.weight")
    'input_blocks.0.0.weight'
    """
    match = re.match(_DENOISER, name)
    return name[match.end() :] if match else name


def meant(components: tuple[Component, ...], label: Label | None) -> tuple[Component, ...]:
    """The components that a label of a target's prefix may mean: any, without a label."""
    if label is None:
        return components
    # A model without a root is a text encoder, if it is not one that makes an image.
    alone = tuple(component for component in components if component.part == "model")
    for part in _MEANT[label]:
        if named := tuple(component for component in components if component.part == part):
            return named
    return alone if label != "denoiser" else ()


def root_of(target: str) -> str:
    """The root that a target's name begins with, in whichever layout; empty without one."""
    match = _ROOT.match(target)
    return match[0] if match else ""


def with_root(components: tuple[Component, ...], root: str) -> tuple[Component, ...]:
    """The components that a root of another layout means.

    Wan 2.2 has `transformer` and `transformer_2`, whose modules are alike: where a base has one
    such folder, the other is not meant.
    """
    if any(c.root != root and all(map(_TRANSFORMER.fullmatch, (c.root, root))) for c in components):
        return ()
    part = _part_of(root)
    return tuple(c for c in components if c.part == part or (c.part == "model" != part))


def called(label: Label) -> str:
    """What a label of a target's prefix is, in words."""
    return _CALLED[label]


def recognition(components: tuple[Component, ...]) -> str | None:
    """What a base was recognised as: `SDXL, original layout`; None if it was not."""
    known = [c for c in components if c.found is not None]
    denoisers = [c for c in known if c.part == "denoiser"]
    words = dict.fromkeys(c.found.words for c in denoisers or known if c.found is not None)
    return "; ".join(words) or None


def _part(root: str, found: Recognised | None, shapes: Mapping[str, tuple[int, ...]]) -> Part:
    if found is not None and found.architecture.component in _DENOISERS:
        return "denoiser"
    if found is not None and found.architecture.component == "vae":
        return "vae"
    if not root:
        return "model"
    if any(name.startswith(_T5) for name in shapes):
        return "t5"
    part = _part_of(root)
    if found is None:
        return "other" if part in ("clip", "clip_g", "t5") else part
    return "clip" if part == "denoiser" else part


def _part_of(root: str) -> Part:
    """The part of a pipeline that has this root."""
    return next(part for pattern, part in _ROOTS if re.match(pattern, root))
