"""Names of an adapter's targets in another format.

Formats differ in how they write a name (`components.py`) and in whose names they use: those of a
model's authors or those of diffusers. A name is compared with those of known models (`layouts.py`)
to see whose it is, and, if it is flattened, what it was. If the format has the other names, rules
say which they are, and of which rows (`crossing.py`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import final

from loratools.deltas.placed import Run
from loratools.errors import MatchError, counted, either
from loratools.names.components import Named, Part, Style, named, spelled
from loratools.names.crossing import Piece
from loratools.names.families import SIDES, Families, architecture_of
from loratools.names.language import is_called_alike
from loratools.names.layouts import Naming, namings, readings
from loratools.names.unets import UNETS
from loratools.typed import see_base, valued

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
    """What targets are in another style, and the others, each with the reason why they are nothing.

    A target is one tensor in the other style, or some of its rows, or several tensors.
    """

    pieces: Mapping[str, tuple[Piece, ...]]
    refused: Mapping[str, str]


def translated(
    targets: Mapping[str, tuple[int, ...]],
    source: Style,
    target: Style,
    base: Mapping[str, tuple[int, ...]] | None = None,
) -> Translation:
    """Spell the names of targets, which have these shapes, in another style.

    `base` are the shapes of a base's parameters. Their names settle which model the targets belong
    to, and what a flattened name was that is none of the known ones; and in a style that has the
    modules of one model, in which layout they are named.
    """
    parsed = {name: named(name, source) for name in targets}
    shapes = {parts: targets[name] for name, parts in parsed.items()}
    speller = _Speller(Families(shapes, _namings(source), base or {}), source, target)
    pieces, refused = {}, {}
    for old, parts in parsed.items():
        try:
            pieces[old] = speller.spelled(parts)
        except (_RefusedError, MatchError) as error:
            refused[old] = str(error)
    return Translation(pieces, refused)


class _RefusedError(Exception):
    """The reason why a name cannot be translated."""


@final
@dataclass(frozen=True)
class _Speller:
    """Spells the names of an adapter's targets, given the models that they may be of."""

    families: Families
    source: Style
    target: Style

    @property
    def names(self) -> Collection[Named]:
        """All names."""
        return self.families.shapes

    def spelled(self, name: Named) -> tuple[Piece, ...]:
        """What a target is in the other style."""
        if (other := self.families.another_model(name)) is not None:
            raise _RefusedError(other)
        if self.target in ("modules", "language"):
            prefix = self._without_prefix(name)
        else:
            prefix = self._prefix(name)
        return tuple(
            piece._replace(name=self._joined(prefix, piece.name))
            for piece in self._pieces(name, self.families.shapes[name][0])
        )

    def _joined(self, prefix: str, name: str) -> str:
        """A dotted name of a parameter, and the prefix before it, as the target writes them."""
        path, _, parameter = name.rpartition(".")
        if self.target == "flattened":
            path = path.replace(".", "_")
        return f"{prefix}{path}.{parameter}"

    # Prefixes

    def _without_prefix(self, name: Named) -> str:
        if self.target == "language" and (name.part != "model" or self.families.names):
            raise _RefusedError("a module of an image model, and MLX has language models")
        if "language" in (self.source, self.target) and not is_called_alike(name.path):
            raise _RefusedError("a module of which it is not known that MLX and PEFT call it so")
        if len(self._parts) > 1:
            raise _RefusedError(
                f"of {counted(len(self._parts), 'model')}, and a PEFT adapter is of one; "
                f"{valued('drop')} leaves out the others"
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
        alone = self.families.is_clip_alone
        if self.target == "comfyui" and alone and self.families.clip is not None:
            return f"text_encoders.{self.families.clip}.transformer."
        if self.target == "flattened" and alone is not None:
            return "lora_te_" if alone else "lora_te1_"
        if self.target == "comfyui" and alone is False:
            return "text_encoders.clip_l.transformer."
        if alone:
            raise _RefusedError(
                "the text encoder of SD 1 or SD 2, for which ComfyUI has different names; which of "
                "the two it is, names and shapes do not tell"
            )
        raise _RefusedError(
            "the text encoder of SD 1, SD 2 or SDXL, which the names alone do not tell; "
            f"{_FORMATS[self.target]} has different names for it; {see_base()}"
        )

    def _component(self, name: Named) -> str:
        """The component of diffusers that the denoiser is: a U-Net or a transformer."""
        found = dict.fromkeys(reading.component for reading in self.families.readings(name))
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
        found = self.families.readings(name)
        if not found and readings(name.path):
            raise _RefusedError(f"no known model has all of these names; {see_base()}")
        if not found:
            names_modules = self.source == "modules"  # as PEFT does, and others
            advice = "keep it in its format" if names_modules else "peft is a format for any model"
            raise _RefusedError(f"no matrix of an image model that is known here; {advice}")
        if found[0].naming == "transformers":
            raise _RefusedError("in a text encoder, and nothing says in which")
        return "denoiser"

    # Paths

    def _pieces(self, name: Named, rows: int) -> tuple[Piece, ...]:
        """The parameters that a target is in the model, by their dotted names there."""
        if name.part in ("clip", "clip_g", "t5"):
            return _alone(readings(name.path)[0].path, name, rows)
        found = self.families.readings(name)
        if not found:
            return self._unknown(name, rows)
        families = tuple(dict.fromkeys(reading.family for reading in found))
        first, *others = (self._in_family(family, name, rows) for family in families)
        common = [meaning for meaning in first if all(meaning in some for some in others)]
        if not common:
            raise _RefusedError(
                f"of {either(families, limit=4)}, for which {_FORMATS[self.target]} has different "
                f"names; {valued('base')} decides"
            )
        return common[0]

    def _in_family(self, family: str, name: Named, rows: int) -> list[tuple[Piece, ...]]:
        """What a name of a family's model is, by the names that the target may have for it.

        Of several, the first is the one that more programs read.
        """
        wanted = self._wanted(family)
        own = [r for r in readings(name.path) if r.family == family]
        known = [r.path for r in own if r in self.families.readings(name)]
        if self._crosses(family):
            return self._crossed(family, f"{known[0]}.{name.parameter}", rows)
        paths = dict.fromkeys(
            known if wanted is None else (r.path for r in own if r.naming in wanted)
        )
        if len(paths) > 1 and (base := self.families.denoiser) is not None:
            stored = [path for path in paths if f"{path}.{name.parameter}" in base.shapes]
            paths = dict.fromkeys(stored) or paths
        if len(paths) > 1 and self.target != "flattened":
            raise _RefusedError(f"may be {' or '.join(sorted(paths))}; {valued('base')} decides")
        return [_alone(path, name, rows) for path in paths]

    def _crossed(self, family: str, name: str, rows: int) -> list[tuple[Piece, ...]]:
        """What a parameter is in the other layout, or by other names in the same one."""
        crossing, base = self.families.crossing(family), self.families.denoiser
        if self.target == "modules" and base is not None:
            return [crossing.pieces(name, base.shapes.__contains__)]
        found = []
        for naming in self._wanted(family) or ():

            def is_wanted(other: str, naming: Naming = naming) -> bool:
                known = readings(other.rpartition(".")[0])
                return any((r.family, r.naming) == (family, naming) for r in known)

            if SIDES[naming] != crossing.side:
                found.append(crossing.pieces(name, is_wanted))
            elif (other := crossing.renamed(name, is_wanted)) is not None:
                found.append((Piece(other, (Run(0, 0, rows),), rows),))
        if not found:
            raise _RefusedError(f"no name that {_FORMATS[self.target]} has")
        return found

    def _unknown(self, name: Named, rows: int) -> tuple[Piece, ...]:
        """A module that no known model has, or one without a matrix."""
        in_base = self.families.in_base(name)
        if len(in_base) > 1:
            raise _RefusedError(f"may be {' or '.join(sorted(in_base))}, which are in the base")
        if len(self.families.names) == 1 and self._crosses(self.families.names[0]):
            path = in_base[0] if in_base else name.path
            if "." in path or not name.is_flattened:
                return self._crossed(self.families.names[0], f"{path}.{name.parameter}", rows)[0]
        if in_base:
            return _alone(in_base[0], name, rows)
        if (
            readings(name.path)
            and not self.families.pairs
            and self.target not in ("modules", "language")
        ):
            raise _RefusedError(f"no known model has all of these names; {see_base()}")
        if name.is_flattened and self.target != "flattened":
            raise _RefusedError(f"no module of a known model has this flattened name; {see_base()}")
        same_names = {self.source, self.target} == {"comfyui", "flattened"}
        if same_names or name.prefix == "unet." or self.target in ("modules", "language"):
            return _alone(name.path, name, rows)
        raise _RefusedError(
            f"a module of no known model, so it cannot be told whether {_FORMATS[self.target]} "
            f"calls it so; {see_base()}"
        )

    def _wanted(self, family: str) -> tuple[Naming, ...] | None:
        """By whose names the target calls the modules of a family; None for any."""
        if self.target in ("modules", "language"):
            return self.families.of_base
        if self.target == "diffusers":
            return ("diffusers",)
        if self.target == "comfyui":
            return ("comfyui",) if "comfyui" in namings(family) else ("original",)
        if family == UNETS:
            # sd-scripts read both names of SDXL, and only diffusers' names of SD 1 and 2.
            return ("diffusers",) if self.families.is_sd1 else ("diffusers", "original")
        if architecture_of(family).sides["original"] == "ComfyUI":
            # The authors' names are those of diffusers, which their trainers have.
            return ("original", "diffusers")
        # Flattened, ComfyUI's names are read by ComfyUI alone, and those of the authors by all.
        return ("original", "comfyui")

    def _crosses(self, family: str) -> bool:
        """Whether the target calls a family's modules by other names than the adapter does."""
        wanted = self._wanted(family)
        return wanted is not None and not self.families.calls_alike(family, wanted)


def _namings(style: Style) -> tuple[Naming, ...] | None:
    """Whose names a style has, as long as a program uses no others; None for anyone's."""
    if style == "diffusers":
        return ("diffusers",)
    if style == "comfyui":
        return ("original", "comfyui")
    return None


def _alone(path: str, name: Named, rows: int) -> tuple[Piece, ...]:
    """A whole parameter of a module with this path."""
    return (Piece(f"{path}.{name.parameter}", (Run(0, 0, rows),), rows),)
