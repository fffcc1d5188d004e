"""The keys of kohya's files: a module's path, mostly with `_` for its dots, and a part's name."""

from collections.abc import Iterable, Mapping
from functools import cache

from loratools.formats._modules.codecs import Codecs
from loratools.formats._modules.spelling import PEFT, Spelling, Split, spelled_alike
from loratools.formats._part_names import lycoris_kind

_PREFIXES = ("lora_", "lycoris_", "oft_")
#: The beginnings of dotted names in other formats, which spell some parts in the same way.
_OTHERS = ("diffusion_model.", "transformer.", "unet.", "text_encoder")


@cache
def spelling(codecs: Codecs) -> Spelling:
    """The names of parts in kohya's files: its own, and PEFT's, which follow flattened names."""
    return spelled_alike(codecs.parts) | PEFT


def spelled(keys: Iterable[str], codecs: Codecs) -> Mapping[Split, str]:
    """The keys of a file, by the modules and parts that they mean."""
    own = spelling(codecs)
    return {split: key for key in keys if (split := own.split(key)) is not None}


def has_kohyas(keys: Iterable[str], codecs: Codecs) -> bool:
    """Whether a key is one that only kohya's files, or LyCORIS files named alike, have."""
    marks = tuple(f".{mark}" for mark in codecs.marks)
    # Nearly all keys of other formats are neither, and need no more than this.
    likely = [key for key in keys if key.startswith(_PREFIXES) or key.endswith(marks)]
    own = spelling(codecs)
    return any(
        own.split(key) is not None or lycoris_kind(key) is not None
        if key.startswith(_PREFIXES)
        else is_name(key)
        for key in likely
    )


def is_name(module: str) -> bool:
    """Whether a module has no name of another format: a flattened one, or one with dots.

    The same is true of the keys of its tensors.
    """
    return not module.startswith(_OTHERS)


def is_flat(module: str) -> bool:
    """Whether a module's name is flattened, as most programs that read such files need it."""
    return "." not in module
