"""MLX's adapters: `adapters.safetensors` or `adapters.npz`, and `adapter_config.json`."""

from loratools.formats import SCALE, Dialect

_USAGE = """
```python
from mlx_lm import load

model, tokenizer = load("{{ base }}", adapter_path="path/to/{{ repo.rpartition('/')[2] }}")
```

```sh
loratools pull hf://{{ repo }} -o path/to/{{ repo.rpartition('/')[2] }}
```
"""

DIALECT = Dialect(
    name="mlx",
    weights="adapters.safetensors",
    config="adapter_config.json",
    base_field="model",
    options=(SCALE,),
    library="mlx",
    tags=("mlx",),
    usage=_USAGE,
    style="language",
    reads=("LoRA", "DoRA", "stacked LoRA"),
    writes=("LoRA", "DoRA", "stacked LoRA"),
)
