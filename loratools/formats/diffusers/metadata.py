"""`lora_adapter_metadata`: the fields of a PEFT config for each component, as JSON in the header.

A field's name begins with its component: `unet.r`. In a file of a single model it does not.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from loratools.formats.diffusers.keys import component_of, key_of
from loratools.io.bundle import Bundle
from loratools.io.json import json_text, parse_json_object

KEY = "lora_adapter_metadata"
#: The fields that a component is given which had none, each with what PEFT takes where it is
#: missing. They are those that diffusers itself finds out from tensors, and rsLoRA. There are no
#: more, since an older PEFT does not load an adapter with a field that it does not know.
_USUAL: Mapping[str, Any] = {
    "r": 8, "lora_alpha": 8, "rank_pattern": {}, "alpha_pattern": {}, "target_modules": None,
    "use_dora": False, "lora_bias": False, "use_rslora": False,
}  # fmt: skip

Fields = Mapping[str, Any]


def read_metadata(metadata: Mapping[str, str], where: str) -> Fields | None:
    """The fields in a file's metadata; None where it has none.

    Raises:
        FormatError: they are not a JSON object.
    """
    text = metadata.get(KEY)
    return parse_json_object(text.encode(), f"{where}: {KEY}") if text else None


def given_fields(bundle: Bundle) -> Fields | None:
    """The fields in a JSON file that the user names as the config; None where it is another one."""
    config = bundle.config
    return config if config and any(map(component_of, config)) else None


def of_component(fields: Fields, component: str) -> Fields:
    """The fields of a component, by PEFT's names."""
    if not component:
        return fields
    prefix = f"{component}."
    return {
        name.removeprefix(prefix): value
        for name, value in fields.items()
        if name.startswith(prefix)
    }


def components_in(fields: Fields) -> tuple[str, ...]:
    """The components that fields are about."""
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in fields))


def as_config(fields: Fields) -> dict[str, Any]:
    """The fields of a component as a config of PEFT, with the values of those that it needs."""
    needed = {name: _USUAL[name] for name in ("r", "lora_alpha")}
    return {"peft_type": "LORA", **needed, **fields}


def written_fields(component: str, fields: Fields, config: Fields) -> Iterator[tuple[str, Any]]:
    """The fields of a component as they are written: those that were read, and what they lack.

    `config` is the config of PEFT that is true of the tensors.
    """
    lacking = [name for name, value in _USUAL.items() if config.get(name, value) != value]
    for name in dict.fromkeys((*fields, *lacking) if fields else _USUAL):
        yield key_of(component, name), config[name]


def with_fields(metadata: Mapping[str, str], fields: Fields, where: str) -> dict[str, str]:
    """The metadata with these fields; in the text that was read, if it says the same."""
    if read_metadata(metadata, where) == fields:
        return dict(metadata)
    return {**metadata, KEY: json_text(fields, indent=2, sort_keys=True)}
