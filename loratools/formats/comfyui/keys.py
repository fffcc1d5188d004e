"""The keys of ComfyUI's files: a part of the checkpoint, a module's path in it, and a part's name.

A module is called as in the checkpoint, so its name begins with `diffusion_model.`, or with
`text_encoders.` and the name of the encoder. Its parts may have the name that any program gives
them: ComfyUI tries one after the other, module by module.

ComfyUI also knows modules by flattened names, and those of some models by the names that they have
in diffusers. Files with such names alone belong to the formats that they are from, except for two
sorts: names of diffusers, some with kohya's names of parts, and names of both kinds in one file.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache

from loratools.formats._modules.alphas import ALPHA
from loratools.formats._modules.codecs import Codecs
from loratools.formats._modules.spelling import (
    OLD_DIFFUSERS,
    PEFT,
    PEFT_MAGNITUDE,
    Spelling,
    Split,
    spelled_alike,
)
from loratools.names.flattened import flattened_prefix

_BEGINNINGS = ("diffusion_model.", "text_encoders.")
_COMPONENT = re.compile(r"(transformer|unet|text_encoder)(_\d)?\.")
_PROCESSOR = ".processor."
#: ai-toolkit's name of a magnitude, which has one number for each output.
_AI_TOOLKIT = Spelling({".magnitude": PEFT_MAGNITUDE})
#: A description of the names of modules, for errors.
NAMES = f"the name of a module that begins with {' or '.join(_BEGINNINGS)}"


@cache
def spelling(codecs: Codecs) -> Spelling:
    """The names of parts in ComfyUI's files."""
    return spelled_alike(codecs.parts) | PEFT | OLD_DIFFUSERS | _AI_TOOLKIT


def is_name(module: str) -> bool:
    """Whether a module has the name of one in a checkpoint of ComfyUI."""
    return module.startswith(_BEGINNINGS) and _PROCESSOR not in module


def is_known(module: str) -> bool:
    """Whether ComfyUI may know a module by this name, in some model."""
    return is_name(module) or bool(_COMPONENT.match(module) or flattened_prefix(module))


def has_names_of_diffusers(keys: Collection[str], codecs: Codecs) -> bool:
    """Whether names are those of diffusers in a file that diffusers does not write.

    Some of its parts have kohya's names, or flattened names of modules are beside them.
    """
    own, kohyas = spelling(codecs), _of_kohya(codecs)
    likely = [key for key in keys if _COMPONENT.match(key) and _PROCESSOR not in key]
    if likely and any(map(flattened_prefix, keys)):
        return any(map(own.split, likely))
    return any(map(kohyas.split, likely))


@cache
def _of_kohya(codecs: Codecs) -> Spelling:
    """Kohya's names of parts, but for those that other formats have too."""
    return spelled_alike({*codecs.parts} - {ALPHA, PEFT_MAGNITUDE})


def spelled(keys: Iterable[str], codecs: Codecs) -> Mapping[Split, str]:
    """The keys of a file, by the modules and parts that they mean."""
    own = spelling(codecs)
    return {split: key for key in keys if (split := own.split(key)) is not None}
