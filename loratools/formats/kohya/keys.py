"""The keys of kohya's files: a module's path, mostly with `_` for its dots, and a part's name."""

from collections.abc import Iterable

from loratools.formats._modules.codecs import Codecs
from loratools.formats._modules.spelling import Spelling, spelled_alike
from loratools.formats._part_names import lycoris_kind

_PREFIXES = ("lora_", "lycoris_", "oft_")
#: The beginnings of dotted names in other formats, which spell some parts in the same way.
_OTHERS = ("diffusion_model.", "transformer.", "unet.", "text_encoder")


def has_kohyas(keys: Iterable[str], codecs: Codecs) -> bool:
    """Whether a key is one that only kohya's files, or LyCORIS files named alike, have."""
    marks = tuple(f".{mark}" for mark in codecs.marks)
    # Nearly all keys of other formats are neither, and need no more than this.
    likely = [key for key in keys if key.startswith(_PREFIXES) or key.endswith(marks)]
    spelled = spelled_alike(codecs.parts)
    return any(_is_kohyas(key, spelled, codecs) for key in likely)


def _is_kohyas(key: str, spelled: Spelling, codecs: Codecs) -> bool:
    split = spelled.split(key)
    if split is None:
        return key.startswith(_PREFIXES) and lycoris_kind(key) is not None
    if not is_name(split.module):
        return False
    return split.part in codecs.marks or split.module.startswith(_PREFIXES)


def is_name(module: str) -> bool:
    """Whether a module has no name of another format: a flattened one, or one with dots.

    The same is true of the keys of its tensors.
    """
    return not module.startswith(_OTHERS)


def is_flat(module: str) -> bool:
    """Whether a module's name is flattened, as most programs that read such files need it."""
    return "." not in module
