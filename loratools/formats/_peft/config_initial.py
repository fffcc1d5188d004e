"""The config that writing starts from: the fields that do not follow from the tensors."""

from collections.abc import Mapping
from typing import Any

from loratools.adapter import Adapter
from loratools.formats._peft.peft_type import OPTIONAL_FIELDS, PeftType


def initial_config(adapter: Adapter, type: PeftType) -> Mapping[str, Any]:
    """The config that was read, if it is of this type; else the fields that the adapter tells.

    A config of another type is not used, because a field may mean something else there.
    """
    config = adapter.filed.config if adapter.filed is not None else None
    if config is not None and config.get("peft_type") == type.name:
        return config
    origin, announced = adapter.provenance, adapter.announced
    fields = {
        "peft_type": type.name,
        "base_model_name_or_path": origin.base,
        "revision": origin.revision,
        "task_type": origin.task,
        "bias": announced.biases,
        "modules_to_save": list(announced.saved),
        "fan_in_fan_out": any(update.fan_in_fan_out for update in adapter.updates.values()),
        "ensure_weight_tying": announced.ties_ends,
    }
    own = {*fields} - {*OPTIONAL_FIELDS} | {*type.fields}
    return {name: value for name, value in fields.items() if value and name in own}
