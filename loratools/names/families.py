"""The known models that an adapter's names may be of, and which of them a base is."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

from loratools.errors import either
from loratools.names.architectures import Architecture, architectures
from loratools.names.components import Named
from loratools.names.crossing import Crossing
from loratools.names.layouts import Naming, Reading, common_families, readings
from loratools.names.matching import BaseNames
from loratools.names.other_names import OtherNames, Shape
from loratools.names.patterns import depths_of
from loratools.names.pipeline import Component, in_denoiser, recognition
from loratools.names.rules import Side
from loratools.names.unets import UNETS, is_sd1

#: Modules of CLIP whose inputs are as wide as the model, and what ComfyUI calls the models.
_AS_WIDE_AS_CLIP = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1")
_CLIPS = {768: "clip_l", 1024: "clip_h"}
#: What the names of the second text encoder of a base in a single file begin with.
_SECOND_ENCODER = ("conditioner.embedders.1.", "text_encoders.clip_g.")
#: The layout that names by whose rules are in.
SIDES: dict[Naming, Side] = {
    "original": "original",
    "comfyui": "original",
    "diffusers": "diffusers",
}


@final
@dataclass(frozen=True)
class Families:
    """What all names of an adapter together, and a base, say about the model that they belong to.

    Attributes:
        shapes: the shapes of the targets, by their names in parts.
        usual: by whose rules the names are in this format; None for anyone's.
        base: the shapes of a base's parameters; empty without a base.
    """

    shapes: Mapping[Named, tuple[int, ...]]
    usual: Collection[Naming] | None
    base: Mapping[str, tuple[int, ...]]
    _crossings: dict[str, Crossing] = field(default_factory=dict, init=False)

    def calls_alike(self, family: str, wanted: Collection[Naming]) -> bool:
        """Whether one of these has all of the names, too, if they are of this family."""
        return any((family, naming) in self._any_pairs for naming in wanted)

    def readings(self, name: Named) -> list[Reading]:
        """The readings of a name in the families that all names agree on."""
        return [r for r in readings(name.path) if (r.family, r.naming) in self.pairs]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The families that the names of the denoiser can be of."""
        return tuple(dict.fromkeys(family for family, _ in self.pairs))

    @cached_property
    def pairs(self) -> tuple[tuple[str, Naming], ...]:
        """The families, each with a naming, that all known names of the denoiser can be of."""
        pairs, own = self._any_pairs, self._architecture
        if self._are_usual():
            pairs = common_families(self._paths, self.usual)
        return tuple(
            (family, naming)
            for family, naming in pairs
            if naming == "transformers"
            or ((own is None or architecture_of(family) is own) and self._has_all(family, naming))
        )

    def _has_all(self, family: str, naming: Naming) -> bool:
        """Whether the rules of a family know all names that may be its, with their numbers."""
        rules = architecture_of(family).rules
        paths = [
            r.path
            for name in self.shapes
            for r in readings(name.path)
            if (r.family, r.naming) == (family, naming)
        ]
        depths = depths_of(paths)
        return all(rules.length(path, SIDES[naming], depths) for path in paths)

    @cached_property
    def _any_pairs(self) -> tuple[tuple[str, Naming], ...]:
        """The families, each with any naming, that have all known names of the denoiser."""
        return common_families(self._paths, None)

    @cached_property
    def _paths(self) -> list[str]:
        """The paths of modules of the denoiser that a known model has."""
        paths = (name.path for name in self.shapes if name.part in ("denoiser", "model"))
        return [path for path in paths if readings(path)]

    def _are_usual(self) -> bool:
        """Whether all names are by those whose names the format has; some programs use others."""
        usual = self.usual
        return usual is not None and all(
            any(reading.naming in usual for reading in readings(path)) for path in self._paths
        )

    @cached_property
    def is_clip_alone(self) -> bool | None:
        """Whether the CLIP is the only text encoder, as in SD 1 and 2; None if it may be either."""
        prefixes = {name.prefix for name in self.shapes}
        if prefixes & {"lora_te_", "text_encoders.clip_h.transformer."}:
            return True
        if "lora_te1_" in prefixes or any(name.part in ("clip_g", "t5") for name in self.shapes):
            return False
        if self.names and UNETS not in self.names:
            return False
        if any(name.startswith(_SECOND_ENCODER) for name in self.base):
            return False
        return self.is_sd1

    @cached_property
    def clip(self) -> str | None:
        """Which CLIP the only text encoder is, by its width: that of SD 1 or of SD 2."""
        sizes = {
            shape[-1]
            for name, shape in self.shapes.items()
            if name.part == "clip" and name.path.endswith(_AS_WIDE_AS_CLIP)
        }
        return _CLIPS.get(sizes.pop()) if len(sizes) == 1 else None

    @cached_property
    def is_sd1(self) -> bool | None:
        """Whether the U-Net is that of SD 1 or 2, or else of SDXL; None if it may be either."""
        paths = [name.path for name in self.shapes if name.part in ("denoiser", "model")]
        paths += map(in_denoiser, self.base)
        return is_sd1(paths)

    def crossing(self, family: str) -> Crossing:
        """The layout of a family that the names are in, with their shapes by these names."""
        if family not in self._crossings:
            self._crossings[family] = self._crossing(family)
        return self._crossings[family]

    def _crossing(self, family: str) -> Crossing:
        naming = next(naming for own, naming in self.pairs if own == family)
        shapes = {}
        for name, shape in self.shapes.items():
            own = [r.path for r in readings(name.path) if (r.family, r.naming) == (family, naming)]
            path = own[0] if own else name.path
            shapes[f"{path}.{name.parameter}"] = shape
        return Crossing(architecture_of(family), SIDES[naming], shapes, self.base_shapes)

    @cached_property
    def _components(self) -> tuple[Component, ...]:
        return BaseNames(self.base).components

    @cached_property
    def denoiser(self) -> Component | None:
        """The model of the base that makes the image, if it is one that is known."""
        found = (c for c in self._components if c.part == "denoiser" and c.found is not None)
        return next(found, None)

    @property
    def _architecture(self) -> Architecture | None:
        own = self.denoiser
        return own.found.architecture if own is not None and own.found is not None else None

    @property
    def of_base(self) -> tuple[Naming, ...] | None:
        """By whose rules the base names its modules; None if this is not known."""
        if self.denoiser is None or self.denoiser.found is None:
            return None
        side = self.denoiser.found.side
        return tuple(naming for naming, own in SIDES.items() if own == side)

    @cached_property
    def base_shapes(self) -> Mapping[str, Shape]:
        """The shapes of the base's tensors by their names in both layouts."""
        if self.denoiser is None or self._architecture is None:
            return {}
        others = OtherNames(self.denoiser.shapes)
        others.add((self._architecture,))
        return others.shapes()

    def another_model(self, name: Named) -> str | None:
        """In words, that a name is one of another model than the base; None if it may be its."""
        families = dict.fromkeys(r.family for r in readings(name.path))
        is_of_image = name.part in ("denoiser", "model") and bool(families)
        if self.denoiser is None or not is_of_image or self.readings(name):
            return None
        told = either(families, limit=4)
        return f"a module of {told}, and the base is {recognition(self._components)}"

    def in_base(self, name: Named) -> list[str]:
        """The paths of the base's modules that have a name, if it is flattened."""
        return self._modules_of_base.get(name.path.replace(".", "_"), [])

    @cached_property
    def _modules_of_base(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = {}
        names = (*map(in_denoiser, self.base), *self.base_shapes)
        for module in dict.fromkeys(name.rpartition(".")[0] for name in names):
            found.setdefault(module.replace(".", "_"), []).append(module)
        return found


def architecture_of(family: str) -> Architecture:
    """The architecture whose rules have the names of a family."""
    return next(
        found
        for found in architectures()
        if found.name == family or (family == UNETS and found.component == "unet")
    )
