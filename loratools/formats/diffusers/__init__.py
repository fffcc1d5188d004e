"""LoRA and DoRA as diffusers stores them: one file for all components of a pipeline."""

from loratools.formats import ALPHA, Dialect

_USAGE = """
```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{{ base }}")
pipeline.load_lora_weights("{{ repo }}")
```

What is in it:

```sh
loratools inspect hf://{{ repo }}
```
"""

_KINDS = ("LoRA", "DoRA", "diff")

DIALECT = Dialect(
    name="diffusers",
    weights="pytorch_lora_weights.safetensors",
    library="diffusers",
    usage=_USAGE,
    options=(ALPHA,),
    style="diffusers",
    reads=_KINDS,
    writes=_KINDS,
)
