"""LoRA and LoCon as kohya's sd-scripts file them: a single file, an alpha tensor a module."""

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

DIALECT = Dialect(name="kohya", library="diffusers", usage=_USAGE)
