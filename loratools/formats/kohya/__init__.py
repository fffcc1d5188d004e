"""LoRA, LoCon and DoRA in the format of kohya's sd-scripts: one file, an alpha for each module."""

from loratools.formats import Dialect

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

DIALECT = Dialect(
    name="kohya",
    library="diffusers",
    usage=_USAGE,
    style="flattened",
    reads=("LoRA", "DoRA", "Tucker LoCon"),
    writes=("LoRA", "DoRA", "Tucker LoCon"),
)
