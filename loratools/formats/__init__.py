"""Dialects on disk: a file each, with `recognises(bundle)`, `decode(bundle, options)`, `encode`."""

import re
import sys
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Literal, final

from loratools import registry
from loratools.adapter import Adapter
from loratools.errors import LoratoolsError, UnsupportedError, listing
from loratools.formats._unwrapped import unwrapped_bundle
from loratools.io.bundle import Bundle

#: Dialects that are known by sight but cannot be read yet: the name of the file that would read
#: each, a pattern of its keys, and what people call it. A row counts until there is such a file.
_KNOWN_BY_SIGHT = (
    ("lycoris", r"\.(lokr_w[12]|hada_w[12])(_[ab])?$", "a LyCORIS adapter"),
    ("diffusers", r"(\.|_)lora\.(down|up)\.weight$|\.processor\..*_lora\.", "a diffusers LoRA"),
    ("mlx", r"\.lora_[ab]$", "an MLX LoRA"),
    ("cloneofsimo", r"^(unet|text_encoder):\d+:(up|down)$", "a cloneofsimo LoRA"),
    ("sam", r"^w_[ab]_\d+$", "a SAM LoRA (Sam_LoRA)"),
    ("dotted", r"\.lora_(down|up)\.weight$", "a LoRA in a dialect of its own"),
)


@final
@dataclass(frozen=True)
class DecodeOptions:
    """What a file cannot say for itself.

    `out_proj` settles how often PEFT applied the update of a MultiheadAttention's output
    projection: by the version that wrote the file, once, or twice.
    """

    out_proj: Literal["auto", "once", "twice"] = "auto"


def decode(bundle: Bundle, options: DecodeOptions | None = None) -> Adapter:
    """The adapter that `bundle` holds, in whichever dialect recognises it.

    Raises:
        FormatError: the files contradict the dialect's rules, or two tensors have one name.
        UnsupportedError: no dialect here recognises them, or it is a kind that none can express.
    """
    package = sys.modules[__name__]
    bundle, renamed = unwrapped_bundle(bundle)
    for name in registry.names(package):
        dialect = registry.load(package, name)
        if dialect.recognises(bundle):
            adapter = _decoded(dialect, bundle, options or DecodeOptions())
            notes = (*renamed, *adapter.notes)
            return replace(adapter, notes=notes, renamed=renamed, model_config=bundle.model_config)
    raise UnsupportedError(f"{bundle.where}: {_appearance(bundle)}; loratools reads {_readable()}")


def _decoded(dialect: ModuleType, bundle: Bundle, options: DecodeOptions) -> Adapter:
    try:
        adapter: Adapter = dialect.decode(bundle, options)
    except LoratoolsError as error:
        if bundle.where in str(error):
            raise
        # A kind of update knows the keys of its tensors, and not which file they are in.
        raise type(error)(f"{bundle.where}: {error}") from error
    return adapter


def encode(adapter: Adapter) -> Bundle:
    """The files of `adapter` in the dialect it was read from; tensors are computed when read.

    Raises:
        UnsupportedError: the dialect has no place for something in it.
    """
    dialect = registry.load(sys.modules[__name__], adapter.format)
    bundle: Bundle = dialect.encode(adapter)
    return bundle


def _readable() -> str:
    return ", ".join(registry.names(sys.modules[__name__]))


def _appearance(bundle: Bundle) -> str:
    if not bundle.tensors:
        return "holds no tensors"
    readable = registry.names(sys.modules[__name__])
    for file, pattern, name in _KNOWN_BY_SIGHT:
        if file not in readable and any(re.search(pattern, key) for key in bundle.tensors):
            return f"looks like {name}, which cannot be read yet"
    return f"not an adapter of a known kind (it holds {listing(bundle.tensors, 3)})"
