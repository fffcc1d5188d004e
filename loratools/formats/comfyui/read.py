"""Reads adapters under ComfyUI's names of modules, in the spellings of all programs."""

from collections.abc import Mapping

from loratools.adapter import Adapter
from loratools.formats import Sureness
from loratools.formats._modules.alphas import ALPHA
from loratools.formats._modules.codecs import all_codecs
from loratools.formats._modules.reading import adapter_of, other_kind, stored_modules
from loratools.formats.comfyui.keys import (
    NAMES,
    has_names_of_diffusers,
    is_known,
    is_name,
    spelling,
)
from loratools.io.bundle import Bundle


def claim(bundle: Bundle) -> Sureness:
    """How sure ComfyUI's dialect is: its modules have the names of a checkpoint, and known parts.

    Files with parts of kinds that have no codec alone are only `POSSIBLE`.
    """
    codecs = all_codecs()
    spelled = spelling(codecs)
    own = list(filter(is_name, bundle.tensors))
    if any((split := spelled.split(key)) and split.part != ALPHA for key in own):
        return Sureness.KEYS
    if any(other_kind(key, spelled) for key in own):
        return Sureness.POSSIBLE
    is_mixed = has_names_of_diffusers(bundle.tensors, codecs)
    return Sureness.KEYS if is_mixed else Sureness.NO


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The adapter in a file; a target is a module's name with `.weight`.

    Raises:
        FormatError: a factor is missing, a key is unknown, two keys mean the same tensor, or a
            tensor cannot be a factor.
        ShapeMismatchError: the factors of a module do not fit each other.
        UnsupportedError: there are updates of another kind, or factors that are not floats.
    """
    modules = stored_modules(bundle, spelling(all_codecs()), is_known, NAMES)
    return adapter_of(bundle, "comfyui", modules)
