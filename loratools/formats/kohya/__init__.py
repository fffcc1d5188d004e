"""LoRA, LoCon and DoRA in the format of kohya's sd-scripts: one file, an alpha for each module."""

from loratools.formats import Dialect
from loratools.formats._usage import PIPELINE_USAGE

DIALECT = Dialect(
    name="kohya",
    library="diffusers",
    usage=PIPELINE_USAGE,
    style="flattened",
    reads=("LoRA", "DoRA", "Tucker LoCon"),
    writes=("LoRA", "DoRA", "Tucker LoCon"),
)
