"""The keys of kohya's files: a module's path with `_` for its dots, a dot, and a part's name."""

from collections.abc import Iterable, Mapping

from loratools.errors import FormatError, UnsupportedError, shorten
from loratools.formats._modules.codecs import Codecs
from loratools.formats._modules.spelling import spelled_alike
from loratools.formats._part_names import lycoris_kind
from loratools.io.bundle import Bundle
from loratools.io.source import Source

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


def other_kind(key: str, codecs: Codecs) -> str | None:
    """The kind of update that a key belongs to, if it is one without a codec; else None."""
    return None if key.partition(".")[2] in codecs.parts else lycoris_kind(key)


def sort_keys(bundle: Bundle, codecs: Codecs) -> Mapping[str, Mapping[str, Source]]:
    """The tensors of each module by the names of their parts, in file order.

    Raises:
        UnsupportedError: a tensor belongs to a kind of update that cannot be read.
        FormatError: a key is not that of any known part.
    """
    for key in bundle.tensors:
        _refuse_other_kind(bundle.where, key, codecs)
    spelling = spelled_alike(codecs.parts)
    modules: dict[str, dict[str, Source]] = {}
    for key, source in bundle.tensors.items():
        split = spelling.split(key)
        if split is None or "." in split.module:
            raise FormatError(
                f"{bundle.where}: {shorten(key)}: an unknown key; expected "
                f"{', '.join(codecs.parts)} after the name of a module, which has no dots"
            )
        modules.setdefault(split.module, {})[split.part] = source
    return modules


def _refuse_other_kind(where: str, key: str, codecs: Codecs) -> None:
    kind = other_kind(key, codecs)
    if kind is not None:
        raise UnsupportedError(f"{where}: {shorten(key)}: {kind}, which cannot be read yet")
