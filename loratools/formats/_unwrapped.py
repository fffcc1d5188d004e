"""A bundle whose names have no wrappers, so that each module has one name in every dialect."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loratools.adapter import Note
from loratools.errors import FormatError, shorten
from loratools.io.bundle import Bundle
from loratools.names.flattened import flattened_prefix
from loratools.names.wrappers import (
    distinct,
    may_be_wrapped,
    renaming,
    unwrapped,
    unwrapped_pattern,
)

#: PEFT's own modules around a model, and what may have been put around those.
_AROUND_PEFT = re.compile(r"(?:(?:module\.)*base_model\.(?:module\.)*model\.)+")
#: What follows the name of a module: without `module` there would be none.
_NAMELESS = re.compile(
    r"(lora_(embedding_)?[AB]|lora_magnitude_vector|lora_diag|modules_to_save|base_layer)(\.|$)"
    r"|weight$|bias$"
)
#: Fields of PEFT's config that have names of modules, or patterns of them.
_NAMING_FIELDS = (
    "target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "rank_pattern",
    "alpha_pattern", "target_parameters", "trainable_token_indices",
)  # fmt: skip


def unwrapped_bundle(bundle: Bundle) -> tuple[Bundle, tuple[Note, ...]]:
    """The bundle with one name for each module, and a note if that changed any.

    Raises:
        FormatError: two tensors have the same name without wrappers.
    """
    plain = _plain_keys(bundle) if may_be_wrapped(bundle.tensors) else {}
    is_whole = any(
        unwrapped(key).count("module.") > name.count("module.") for key, name in plain.items()
    )
    config = None if bundle.config is None else _unwrapped_config(bundle.config, is_whole=is_whole)
    said = renaming(plain)
    if said is None and config == bundle.config:
        return bundle, ()
    tensors = {plain.get(key, key): source for key, source in bundle.tensors.items()}
    said = said or "names in the config are read without the wrappers of a running program"
    note = Note("info", said)
    return replace(bundle, tensors=tensors, config=config), (note,)


def _plain_keys(bundle: Bundle) -> Mapping[str, str]:
    """Each key of the bundle, and its name without wrappers."""
    plain = _without_modules(
        {key: _AROUND_PEFT.sub(_without_module, unwrapped(key), count=1) for key in bundle.tensors},
        bundle.where,
    )
    return distinct(plain, bundle.where)


def _without_module(match: re.Match[str]) -> str:
    return match[0].replace("module.", "")


def _without_modules(plain: Mapping[str, str], where: str) -> Mapping[str, str]:
    """Leave out a module called `module` that all of a model is in, or all of a flattened part."""
    for mark in ("module.", "module_"):
        if not any(mark in name for name in plain.values()):
            continue
        parts: dict[str, dict[str, tuple[str, str]]] = {}
        for key, name in plain.items():
            head = _head(name)
            part = "" if head.endswith(".") else head
            parts.setdefault(part, {})[key] = head, name.removeprefix(head)
        for part, names in parts.items():
            if bool(part) == (mark == "module_"):
                plain = {**plain, **_without_whole(names, mark, where)}
    return plain


def _without_whole(names: Mapping[str, tuple[str, str]], mark: str, where: str) -> dict[str, str]:
    rests = {key: rest for key, (_, rest) in names.items()}
    while all(
        rest.startswith(mark) and not _NAMELESS.match(rest, len(mark)) for rest in rests.values()
    ):
        rests = {key: rest.removeprefix(mark) for key, rest in rests.items()}
    owners = {rest: key for key, rest in rests.items()}
    for key, rest in rests.items():
        if rest.startswith(mark) and (other := owners.get(rest.removeprefix(mark))):
            raise FormatError(
                f"{where}: {shorten(other)} and {shorten(key)} may be one tensor, outside and "
                f"inside of a wrapper called 'module'; rename or remove one of them"
            )
    return {key: head + rests[key] for key, (head, _) in names.items()}


def _head(name: str) -> str:
    """PEFT's prefix, or that of a flattened name: what comes before the name of a module."""
    around = _AROUND_PEFT.match(name)
    return around[0] if around else flattened_prefix(name)


def _unwrapped_config(fields: Mapping[str, Any], *, is_whole: bool) -> Mapping[str, Any]:
    """The config with names and patterns as the tensors now have them."""

    def plain(name: Any) -> Any:
        if not isinstance(name, str):
            return name
        pattern = unwrapped_pattern(name)
        return re.sub(r"^(\^?)(module\\?\.)+", r"\1", pattern) if is_whole else pattern

    def plain_field(value: Any) -> Any:
        if isinstance(value, list):
            return [name for name in map(plain, value) if name != ""]
        if isinstance(value, dict):
            renamed: dict[Any, Any] = {}
            for name, number in value.items():
                # Of two patterns that are now the same, the first counts, as in PEFT.
                renamed.setdefault(plain(name), number)
            return renamed
        return plain(value)

    changed = {name: plain_field(fields[name]) for name in _NAMING_FIELDS if fields.get(name)}
    return {**fields, **changed}
