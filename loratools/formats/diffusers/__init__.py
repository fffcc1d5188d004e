"""LoRA and DoRA as diffusers stores them: one file for all components of a pipeline."""

from loratools.formats import ALPHA, Dialect
from loratools.formats._usage import PIPELINE_USAGE

_KINDS = ("LoRA", "DoRA", "diff")

DIALECT = Dialect(
    name="diffusers",
    weights="pytorch_lora_weights.safetensors",
    library="diffusers",
    usage=PIPELINE_USAGE,
    options=(ALPHA,),
    style="diffusers",
    reads=_KINDS,
    writes=_KINDS,
)
