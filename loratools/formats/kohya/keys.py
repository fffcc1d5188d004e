"""The keys of kohya's files: a module's path with `_` for its dots, a dot, and a part."""

from collections.abc import Mapping

from loratools.errors import FormatError, UnsupportedError, shorten
from loratools.formats._part_names import lycoris_kind
from loratools.formats.kohya.codecs import Codecs
from loratools.io.bundle import Bundle
from loratools.io.source import Source

_EMBEDDING = "bundle_emb."
_PREFIXES = ("lora_", "lycoris_", "oft_")


def is_kohya(key: str, codecs: Codecs) -> bool:
    """Whether only this format, or LyCORIS under the same names, has such a key."""
    is_prefixed = key.startswith(_PREFIXES)
    if not (is_prefixed or key.endswith(codecs.marks)):  # as nearly all keys of other formats
        return False
    _, _, part = key.partition(".")
    if part in codecs.marks:
        return True
    return is_prefixed and (part in codecs.parts or lycoris_kind(key) is not None)


def other_kind(key: str, codecs: Codecs) -> str | None:
    """The kind of update that a key belongs to, if there is no codec for it."""
    return None if key.partition(".")[2] in codecs.parts else lycoris_kind(key)


def sort_keys(bundle: Bundle, codecs: Codecs) -> Mapping[str, Mapping[str, Source]]:
    """The parts of each module, in file order.

    Raises:
        UnsupportedError: a part belongs to a kind that cannot be read.
        FormatError: a key is none of any known kind.
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
