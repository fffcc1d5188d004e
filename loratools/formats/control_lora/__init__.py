"""Control-LoRA of Stability AI: a ControlNet as the difference to its U-Net; it is only read."""

from loratools.formats import Dialect

DIALECT = Dialect(name="control_lora", style="apart", reads=("LoRA",), merges=False)
