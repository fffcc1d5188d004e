"""The keys of kohya's files: a module's path with `_` for its dots, a dot, and a part's name."""

from collections.abc import Iterable

from loratools.formats._modules.codecs import Codecs
from loratools.formats._part_names import lycoris_kind

_PREFIXES = ("lora_", "lycoris_", "oft_")


def has_kohyas(keys: Iterable[str], codecs: Codecs) -> bool:
    """Whether a key is one that only kohya's files, or LyCORIS files named alike, have."""
    marks = codecs.marks
    # Nearly all keys of other formats are neither, and need no more than this.
    likely = [key for key in keys if key.startswith(_PREFIXES) or key.endswith(marks)]
    return any(_is_kohyas(key, codecs) for key in likely)


def _is_kohyas(key: str, codecs: Codecs) -> bool:
    _, _, part = key.partition(".")
    if part in codecs.marks:
        return True
    is_known = part in codecs.parts or lycoris_kind(key) is not None
    return is_known and key.startswith(_PREFIXES)


def is_name(module: str) -> bool:
    """Whether a module's name is flattened, so that it has no dots."""
    return "." not in module
