"""LoRA and LoCon as kohya's sd-scripts file them: a single file, an alpha tensor a module."""

from loratools.formats.kohya.read import decode, recognises
from loratools.formats.kohya.write import encode

__all__ = ["decode", "encode", "recognises"]
