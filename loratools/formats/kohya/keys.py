"""The keys of kohya's files: a module's path with `_` for its dots, a dot, and a part's name."""

from collections.abc import Mapping

from loratools.errors import FormatError, UnsupportedError, shorten
from loratools.formats._part_names import lycoris_kind
from loratools.formats.kohya.codecs import Codecs
from loratools.io.bundle import Bundle
from loratools.io.source import Source

_EMBEDDING = "bundle_emb."
_PREFIXES = ("lora_", "lycoris_", "oft_")


def is_kohya(key: str, codecs: Codecs) -> bool:
    """Whether only kohya's files, or files of LyCORIS with the same naming, have such a key."""
    is_prefixed = key.startswith(_PREFIXES)
    # A fast path: nearly all keys of other formats end here.
    if not (is_prefixed or key.endswith(codecs.marks)):
        return False
    _, _, part = key.partition(".")
    if part in codecs.marks:
        return True
    return is_prefixed and (part in codecs.parts or lycoris_kind(key) is not None)


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
    modules: dict[str, dict[str, Source]] = {}
    for key, source in bundle.tensors.items():
        module, _, part = key.partition(".")
        if part not in codecs.parts or not module:
            raise FormatError(
                f"{bundle.where}: {shorten(key)}: an unknown key; expected "
                f"{', '.join(codecs.parts)} after the name of a module, which has no dots"
            )
        modules.setdefault(module, {})[part] = source
    return modules


def _refuse_other_kind(where: str, key: str, codecs: Codecs) -> None:
    if key.startswith(_EMBEDDING):
        raise UnsupportedError(
            f"{where}: {shorten(key)}: an embedding of textual inversion, bundled with a LoRA, "
            f"which cannot be read yet"
        )
    kind = other_kind(key, codecs)
    if kind is not None:
        raise UnsupportedError(f"{where}: {shorten(key)}: {kind}, which cannot be read yet")
