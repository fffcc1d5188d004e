"""The front matter of a README, and the Hub's checks of it."""

import re
from typing import Any

import yaml

FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|\Z)", re.DOTALL)
TEXT = ("license", "license_name", "license_link", "pipeline_tag", "library_name")
TEXT_OR_LIST = ("language", "base_model", "datasets", "metrics")
RELATIONS = ("adapter", "finetune", "merge", "quantized")


def problems(readme: str) -> tuple[list[str], list[str]]:
    """The errors in a README, for which the Hub refuses it, and the warnings."""
    match = FRONT_MATTER.match(readme)
    if match is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        fields = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"yaml metadata does not parse: {error}"], []
    if fields is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(fields, dict):
        return ["yaml metadata must be a mapping"], []
    return _wrong(fields), []


def metadata(readme: str) -> dict[str, Any] | None:
    """The fields of the front matter; None if there is none or it has errors or warnings."""
    match = FRONT_MATTER.match(readme)
    errors, warnings = problems(readme)
    if match is None or errors or warnings:
        return None
    fields: dict[str, Any] = yaml.safe_load(match[1])
    return fields


def _wrong(fields: dict[str, Any]) -> list[str]:
    wrong = [
        f'"{name}" must be a string'
        for name in TEXT
        if name in fields and not isinstance(fields[name], str)
    ]
    wrong += [
        f'"{name}" must be a string or an array of strings'
        for name in TEXT_OR_LIST
        if name in fields and not (isinstance(fields[name], str) or _is_texts(fields[name]))
    ]
    if "tags" in fields and not _is_texts(fields["tags"]):
        wrong.append('"tags" must be an array of strings')
    relation = fields.get("base_model_relation", RELATIONS[0])
    if relation not in RELATIONS:
        wrong.append(f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]')
    return wrong


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
