"""LoRA and DoRA under ComfyUI's own names of modules: one file, where alphas are tensors."""

from loratools.formats import Dialect

_KINDS = ("LoRA", "DoRA", "Tucker LoCon")

DIALECT = Dialect(name="comfyui", style="comfyui", reads=_KINDS, writes=_KINDS)
