"""Reads Control-LoRAs: factors `.up` and `.down` of the shared weights, and all others whole."""

from collections.abc import Mapping
from dataclasses import replace

from loratools.adapter import Adapter
from loratools.formats import Sureness
from loratools.formats._modules.reading import adapter_of, stored_modules
from loratools.formats._modules.spelling import Spelling
from loratools.io.bundle import Bundle
from loratools.parts import Note, Replacement

#: The key of an empty tensor, by which programs recognise such a file.
_MARK = "lora_controlnet"
_SPELLING = Spelling({".up": "lora_up.weight", ".down": "lora_down.weight"})
_NOTE = Note(
    "refusal",
    "changes a copy of the U-Net's encoder, which runs beside the U-Net as a ControlNet: merged "
    "into the U-Net, it would change the U-Net itself",
)


def claim(bundle: Bundle) -> Sureness:
    """How sure this dialect is: its files have a tensor that says what they are."""
    return Sureness.KEYS if _MARK in bundle.tensors else Sureness.NO


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The adapter in a file; a target is the name of a parameter in the ControlNet.

    Raises:
        FormatError: a factor is missing, or a tensor cannot be a factor.
        ShapeMismatchError: the factors of a module do not fit each other.
    """
    factors = {key: s for key, s in bundle.tensors.items() if _SPELLING.split(key)}
    modules = stored_modules(
        replace(bundle, tensors=factors), _SPELLING, bool, "the name of a module"
    )
    adapter = adapter_of(replace(bundle, tensors=factors), "control_lora", modules)
    return replace(
        adapter,
        replaced={
            key: Replacement(source, is_trained=True)
            for key, source in bundle.tensors.items()
            if key not in factors and key != _MARK
        },
        inert={_MARK: "says that the file is a Control-LoRA"},
        notes=(*adapter.notes, _NOTE),
    )
