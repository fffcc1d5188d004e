"""What a model card says of loading an adapter, where dialects share the library that loads it."""

#: A pipeline of diffusers; `base` and `repo` are variables of the card's template.
PIPELINE_USAGE = """
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
