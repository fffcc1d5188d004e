"""LoRA of cloneofsimo's trainer, the first for Stable Diffusion; it is only read."""

from loratools.formats import Dialect

DIALECT = Dialect(name="cloneofsimo", style="diffusers", reads=("LoRA",))
