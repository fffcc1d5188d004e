"""Fields of a PEFT config for which an adapter is refused, whatever its tensors are."""

from collections.abc import Iterator, Sequence

from loratools.errors import listing
from loratools.formats._peft.config import PeftConfig
from loratools.io.json import in_json
from loratools.parts import Note

#: The values of `peft_type` that are no updates of weights, each with what it does instead.
NOT_WEIGHTS = {
    "PROMPT_TUNING": "trains virtual tokens that are put before the input",
    "MULTITASK_PROMPT_TUNING": "trains virtual tokens that are put before the input",
    "P_TUNING": "trains virtual tokens that are put before the input",
    "CPT": "trains virtual tokens that are put before the input",
    "PREFIX_TUNING": "trains keys and values that are put before those of the input",
    "CARTRIDGE": "trains keys and values that are put before those of the input",
    "ADAPTION_PROMPT": "trains prompts that enter the attention layers through a gate",
    "XLORA": "mixes its experts by each token",
    "POLY": "mixes its experts by each task",
    "LILY": "mixes its experts by each token",
}

#: Initialisations that change the base before training starts.
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def type_refused(peft_type: object, known: Sequence[str]) -> str:
    """The reason why an adapter of this `peft_type` cannot be read; the types `known` can be."""
    if peft_type is None:
        return "has no peft_type, which is 'LORA' for a LoRA"
    if not isinstance(peft_type, str):
        return f"peft_type must be a name, is {in_json(peft_type)}"
    if peft_type in NOT_WEIGHTS:
        return f"peft_type {peft_type} {NOT_WEIGHTS[peft_type]}, and is no update of weights"
    verb = "is" if len(known) == 1 else "are"
    return f"peft_type {peft_type!r:.40} is not supported yet ({listing(known)} {verb})"


def refused_settings(config: PeftConfig) -> Iterator[Note]:
    """Notes on fields that give the stored tensors another meaning than an update of the base."""
    for setting, reason in config.type.refused.items():
        if config.fields.get(setting):
            yield Note("refusal", f"{setting}: {reason}")
    init = config.fields.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(CHANGED_BASE):
        yield Note(
            "refusal",
            f"init_lora_weights is {init!r}: training started from a changed base, and the "
            f"adapter was never converted; save it with PEFT's "
            f"path_initial_model_for_weight_conversion first",
        )
