"""Names of an adapter's targets in another format, as long as both name the modules alike.

Formats differ in how they write a name (`components.py`) and in whose names they use: those of a
model's authors or those of diffusers. Only the former is translated here. A name is compared with
those of known models (`layouts.py`) to see whose it is, and, if it is flattened, what it was.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import final

from loratools.errors import listing
from loratools.names.components import Named, Part, Style, named, spelled
from loratools.names.language import is_called_alike
from loratools.names.layouts import Naming, Reading, common_families, namings, readings

#: The family of all U-Nets, the only models that kohya's format names as diffusers does.
_UNETS = "Stable Diffusion 1, 2 and XL"
#: Modules that only one of the two kinds of U-Net has, by LDM's names and by diffusers'.
_ONLY_SD1 = re.compile(
    r"(down_blocks[._](0[._]att|3[._]))|up_blocks[._]3[._]"
    r"|input_blocks[._]([12][._]1[._]|9|1\d)|output_blocks[._](9|1\d)"
)
_ONLY_SDXL = re.compile(
    r"up_blocks[._]0[._]att|transformer_blocks[._][1-9]|add_embedding|label_emb"
)
#: What may stand before the names of a base's modules.
_ROOT = re.compile(r"^(model\.diffusion_model|diffusion_model|transformer|unet)\.")
#: What the names of the second text encoder of a base in a single file begin with.
_SECOND_ENCODER = ("conditioner.embedders.1.", "text_encoders.clip_g.")
_LAYOUT = {
    "original": "the original names",
    "comfyui": "ComfyUI's names",
    "diffusers": "diffusers' names",
    "transformers": "transformers' names",
}
_FORMATS = {
    "flattened": "kohya's format",
    "diffusers": "diffusers",
    "comfyui": "ComfyUI",
    "modules": "PEFT's format",
    "language": "MLX",
}


@final
@dataclass(frozen=True)
class Translation:
    """The new names of targets by their old ones, and the others, each with the reason why not."""

    names: Mapping[str, str]
    refused: Mapping[str, str]


def translated(
    targets: Collection[str], source: Style, target: Style, base: Collection[str] = ()
) -> Translation:
    """Spell the names of targets in another style.

    `base` are the names of a base's parameters. They settle which model the names belong to, and
    what a flattened name was that is none of the known ones.
    """
    parsed = {name: named(name, source) for name in targets}
    model = _Model(tuple(parsed.values()), source, target, tuple(base))
    names, refused = {}, {}
    for old, parts in parsed.items():
        try:
            names[old] = model.spelled(parts)
        except _RefusedError as error:
            refused[old] = str(error)
    return Translation(names, refused)


class _RefusedError(Exception):
    """The reason why a name cannot be translated."""


@final
@dataclass(frozen=True)
class _Model:
    """What all names of an adapter together say about the model that they belong to."""

    names: tuple[Named, ...]
    source: Style
    target: Style
    base: tuple[str, ...]

    def spelled(self, name: Named) -> str:
        """A name in the style of the target."""
        if self.target in ("modules", "language"):
            prefix = self._without_prefix(name)
        else:
            prefix = self._prefix(name)
        path = self._path(name)
        if self.target == "flattened":
            path = path.replace(".", "_")
        return f"{prefix}{path}.{name.parameter}"

    # Prefixes

    def _without_prefix(self, name: Named) -> str:
        if self.target == "language" and (name.part != "model" or self._families):
            raise _RefusedError("a module of an image model, and MLX has language models")
        if "language" in (self.source, self.target) and not is_called_alike(name.path):
            raise _RefusedError("a module of which it is not known that MLX and PEFT call it so")
        if len(self._parts) > 1:
            raise _RefusedError(
                f"one of {len(self._parts)} models, and a PEFT adapter belongs to one"
            )
        return ""

    @cached_property
    def _parts(self) -> frozenset[Part]:
        return frozenset(name.part for name in self.names)

    def _prefix(self, name: Named) -> str:
        part = self._known_part(name)
        fixed = spelled(part, self.target)
        if fixed is not None:
            return fixed
        if part == "denoiser":
            return self._component(name)
        if part == "t5":
            return self._t5(name)
        alone = self._is_clip_alone
        if self.target == "flattened" and alone is not None:
            return "lora_te_" if alone else "lora_te1_"
        if self.target == "comfyui" and alone is False:
            return "text_encoders.clip_l.transformer."
        if alone:
            raise _RefusedError(
                "the text encoder of SD 1 or SD 2, for which ComfyUI has different names; which of "
                "the two it is, names do not tell"
            )
        raise _RefusedError(
            "the text encoder of SD 1, SD 2 or SDXL, which the names alone do not tell; "
            f"{_FORMATS[self.target]} has different names for it; see --base"
        )

    def _component(self, name: Named) -> str:
        """The component of diffusers that the denoiser is: a U-Net or a transformer."""
        found = dict.fromkeys(reading.component for reading in self._readings(name))
        if len(found) != 1:
            raise _RefusedError(
                f"of a model that may be {' or '.join(found) or 'any component'} of a pipeline"
            )
        return f"{next(iter(found))}."

    def _t5(self, name: Named) -> str:
        """The component of diffusers that T5 is: the second or the third text encoder."""
        if any(other.part == "clip_g" for other in self.names):
            return "text_encoder_3."
        if name.prefix == "lora_te2_":
            return "text_encoder_2."
        raise _RefusedError("T5 is text_encoder_2 of Flux and text_encoder_3 of SD 3")

    def _known_part(self, name: Named) -> Part:
        if name.part == "other":
            raise _RefusedError("in no part of a pipeline that is known here")
        if name.part != "model":
            return name.part
        found = self._readings(name)
        if not found and readings(name.path):
            raise _RefusedError("no known model has all of these names; see --base")
        if not found:
            raise _RefusedError("no matrix of an image model that is known here")
        if found[0].naming == "transformers":
            raise _RefusedError("in a text encoder, and nothing says in which")
        return "denoiser"

    @cached_property
    def _is_clip_alone(self) -> bool | None:
        """Whether the CLIP is the only text encoder, as in SD 1 and 2; None if it may be either."""
        prefixes = {name.prefix for name in self.names}
        if prefixes & {"lora_te_", "text_encoders.clip_h.transformer."}:
            return True
        if "lora_te1_" in prefixes or any(name.part in ("clip_g", "t5") for name in self.names):
            return False
        if self._families and _UNETS not in self._families:
            return False
        if any(name.startswith(_SECOND_ENCODER) for name in self.base):
            return False
        return self._is_sd1

    @cached_property
    def _is_sd1(self) -> bool | None:
        """Whether the U-Net is that of SD 1 or 2, or else of SDXL; None if it may be either."""
        paths = [name.path for name in self.names if name.part in ("denoiser", "model")]
        paths += [_ROOT.sub("", name) for name in self.base]
        if any(map(_ONLY_SD1.match, paths)):
            return True
        return False if any(map(_ONLY_SDXL.search, paths)) else None

    # Paths

    def _path(self, name: Named) -> str:
        """The dotted path of a module; or, for a flattened target, perhaps a flattened path."""
        if name.part in ("clip", "clip_g", "t5"):
            return readings(name.path)[0].path
        found = self._readings(name)
        if not found:
            return self._unknown(name)
        if self.target in ("modules", "language"):
            paths = {reading.path for reading in found}
        else:
            paths = self._wanted_paths(name)
        if len(paths) > 1:
            raise _RefusedError(f"may be {' or '.join(sorted(paths))}; --base decides")
        return paths.pop()

    def _unknown(self, name: Named) -> str:
        """The path of a module that no known model has."""
        in_base = self._in_base.get(name.path.replace(".", "_"), ())
        if len(in_base) > 1:
            raise _RefusedError(f"may be {' or '.join(sorted(in_base))}, which are in the base")
        if in_base:
            return in_base[0]
        if readings(name.path) and not self._pairs and self.target not in ("modules", "language"):
            raise _RefusedError("no known model has all of these names; see --base")
        if name.is_flattened and self.target != "flattened":
            raise _RefusedError("no module of a known model has this flattened name; see --base")
        same_names = {self.source, self.target} == {"comfyui", "flattened"}
        if same_names or name.prefix == "unet." or self.target in ("modules", "language"):
            return name.path
        raise _RefusedError(
            f"a module of no known model, so it cannot be told whether {_FORMATS[self.target]} "
            f"calls it so; see --base"
        )

    def _wanted_paths(self, name: Named) -> set[str]:
        """The paths that a name can be, by the names that the target has for each family."""
        found: set[str] = set()
        others: dict[str, list[Reading]] = {}
        for family in self._families:
            own = [r for r in readings(name.path) if r.family == family]
            same = {r.path for r in own if r.naming in self._wanted(family)}
            found |= same
            if not same:
                others[family] = own
        if not others:
            return found
        theirs = dict.fromkeys(_LAYOUT[r.naming] for own in others.values() for r in own)
        wanted = dict.fromkeys(_LAYOUT[n] for family in others for n in self._wanted(family))
        settle = "; --base may show that it is another model" if found else ""
        raise _RefusedError(
            f"{' and '.join(theirs)} of {listing(others, 2)}, for which {_FORMATS[self.target]} "
            f"has {' or '.join(wanted)}, and the map between these is not there yet{settle}"
        )

    def _wanted(self, family: str) -> tuple[Naming, ...]:
        """By whose names the target calls the modules of a family."""
        if self.target == "diffusers":
            return ("diffusers",)
        if self.target == "comfyui":
            return ("comfyui",) if "comfyui" in namings(family) else ("original",)
        if family != _UNETS:
            # Flattened, ComfyUI's names are read by ComfyUI alone, and those of the authors by all.
            return ("original", "comfyui")
        # sd-scripts read both names of SDXL, and only diffusers' names of SD 1 and 2.
        return ("diffusers",) if self._is_sd1 else ("diffusers", "original")

    # Families

    def _readings(self, name: Named) -> list[Reading]:
        """The readings of a name in the families that all names agree on."""
        return [r for r in readings(name.path) if (r.family, r.naming) in self._pairs]

    @cached_property
    def _families(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(family for family, _ in self._pairs))

    @cached_property
    def _pairs(self) -> tuple[tuple[str, Naming], ...]:
        """The families, each with a naming, that all known names of the denoiser can be of."""
        names = [n.path for n in self.names if n.part in ("denoiser", "model")]
        pairs = common_families(names, _namings(self.source))
        if not self.base:
            return pairs
        modules = [_ROOT.sub("", name).rpartition(".")[0] for name in self.base]
        families = {family for family, _ in common_families(modules, None)}
        return tuple(pair for pair in pairs if not families or pair[0] in families)

    @cached_property
    def _in_base(self) -> Mapping[str, list[str]]:
        """The paths of the base's modules by their flattened names."""
        found: dict[str, list[str]] = {}
        for module in dict.fromkeys(_ROOT.sub("", n).rpartition(".")[0] for n in self.base):
            found.setdefault(module.replace(".", "_"), []).append(module)
        return found


def _namings(style: Style) -> tuple[Naming, ...] | None:
    """Whose names a style can have; None for any."""
    if style == "diffusers":
        return ("diffusers",)
    if style == "comfyui":
        return ("original", "comfyui")
    return None
