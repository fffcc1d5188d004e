"""LoRA of XLabs' trainer for FLUX.1, which names the processors of attentions; it is only read."""

from loratools.formats import Dialect

DIALECT = Dialect(name="xlabs", reads=("LoRA",))
