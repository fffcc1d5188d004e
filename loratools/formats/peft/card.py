"""The text of a model card on how an adapter is loaded with PEFT."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loratools.adapter import Adapter

#: The classes of transformers by PEFT's task type.
_CLASSES: Mapping[str | None, str] = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}

USAGE = """
```python
from peft import PeftModel
from transformers import {{ model_class }}

base = {{ model_class }}.from_pretrained("{{ base }}")
model = PeftModel.from_pretrained(base, "{{ repo }}")
```

As one model, without PEFT:

```sh
loratools merge {{ "hf://" if "/" in base }}{{ base }} hf://{{ repo }} -o merged
```
"""


def base_class(adapter: "Adapter") -> str:
    """The class of transformers that loads the adapter's base.

    It follows from the task type. Without one, PEFT stores the class of the model that it was given
    as `auto_mapping`.
    """
    if adapter.provenance.task in _CLASSES:
        return _CLASSES[adapter.provenance.task]
    config = adapter.filed.config if adapter.filed is not None else None
    mapping = (config or {}).get("auto_mapping")
    if isinstance(mapping, dict):
        name, library = mapping.get("base_model_class"), mapping.get("parent_library")
        is_class = isinstance(name, str) and name.isascii() and name.isidentifier()
        if is_class and str(library).partition(".")[0] == "transformers":
            return str(name)
    return "AutoModelForCausalLM"
