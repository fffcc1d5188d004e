"""PEFT's LoRA and DoRA: `adapter_config.json` and `adapter_model.safetensors`."""

from loratools.formats.peft.read import decode, recognises
from loratools.formats.peft.write import encode

__all__ = ["decode", "encode", "recognises"]
