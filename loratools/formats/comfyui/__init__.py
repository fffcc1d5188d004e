"""LoRA and DoRA under ComfyUI's own names of modules: one file, where alphas are tensors."""

from loratools.formats import Dialect

DIALECT = Dialect(name="comfyui")
