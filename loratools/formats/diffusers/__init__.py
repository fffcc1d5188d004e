"""LoRA and DoRA as diffusers stores them: one file for all components of a pipeline."""

from loratools.formats import ALPHA, Dialect
from loratools.formats._usage import PIPELINE_USAGE

_KINDS = ("LoRA", "DoRA", "diff")
#: The components of pipelines that diffusers loads adapters into.
COMPONENTS = (
    "unet", "prior", "transformer", "transformer_2", "transformer_ref", "text_encoder",
    "text_encoder_2", "text_encoder_3", "text_encoder_4", "connectors", "text_conditioner",
)  # fmt: skip

DIALECT = Dialect(
    name="diffusers",
    weights="pytorch_lora_weights.safetensors",
    library="diffusers",
    usage=PIPELINE_USAGE,
    options=(ALPHA,),
    components=COMPONENTS,
    style="diffusers",
    reads=_KINDS,
    writes=_KINDS,
)
