"""LoRA under the names of FLUX.1's original checkpoint, as Black Forest Labs' own; only read."""

from loratools.formats import Dialect

DIALECT = Dialect(name="bfl", reads=("LoRA", "DoRA", "diff"))
