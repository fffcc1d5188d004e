"""The config that writing begins with: what no tensor tells."""

from collections.abc import Mapping
from typing import Any

from loratools.adapter import Adapter


def initial_config(adapter: Adapter) -> Mapping[str, Any]:
    """The config as it was read; for an adapter without one, what the adapter itself says."""
    if adapter.filed is not None and adapter.filed.config is not None:
        return adapter.filed.config
    origin, announced = adapter.provenance, adapter.announced
    fields = {
        "base_model_name_or_path": origin.base,
        "revision": origin.revision,
        "task_type": origin.task,
        "bias": announced.biases,
        "modules_to_save": list(announced.saved),
        "fan_in_fan_out": any(update.fan_in_fan_out for update in adapter.updates.values()),
        "ensure_weight_tying": announced.ties_ends,
    }
    return {name: value for name, value in fields.items() if value}
