"""Reads adapters in the format of kohya's sd-scripts."""

from collections.abc import Mapping

from loratools.adapter import Adapter
from loratools.formats import Sureness
from loratools.formats._modules.codecs import all_codecs
from loratools.formats._modules.reading import adapter_of, stored_modules
from loratools.formats._part_names import lycoris_kind
from loratools.formats.kohya.keys import has_kohyas, is_name, spelling
from loratools.io.bundle import Bundle


def claim(bundle: Bundle) -> Sureness:
    """How sure kohya's dialect is: its keys are names, as a rule flattened, with a known part.

    Files with parts of a kind that has no codec, or with another format's names beside, are only
    `POSSIBLE`: decoding refuses them by name.
    """
    codecs = all_codecs()
    if not has_kohyas(bundle.tensors, codecs):
        return Sureness.NO
    own = spelling(codecs)
    unknown = [key for key in bundle.tensors if own.split(key) is None]
    has_others = any(map(lycoris_kind, unknown)) or not all(map(is_name, bundle.tensors))
    return Sureness.POSSIBLE if has_others else Sureness.KEYS


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The adapter in a kohya file; a target is a module's name with `.weight`.

    Raises:
        FormatError: a factor is missing, a key is unknown, or a tensor cannot be a factor.
        ShapeMismatchError: the factors of a module do not fit each other.
        UnsupportedError: there are updates of another kind, or factors that are not floats.
    """
    modules = stored_modules(bundle, spelling(all_codecs()), is_name, "the name of a module")
    return adapter_of(bundle, "kohya", modules)
