"""A bundle whose names have no wrappers, so that each module has one name in every dialect."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

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

#: What follows the name of a module: without `module` there would be none.
_NAMELESS = re.compile(
    r"(lora_(embedding_)?[ABab]|lora_magnitude_vector|lora_diag|modules_to_save|base_layer)(\.|$)"
    r"|weight$|bias$"
)


@final
@dataclass(frozen=True)
class Unwrapped:
    """A bundle with one name for each tensor; its config may still have other names.

    `said` is what is to be said of it, None if it was so before. `is_whole` tells that a wrapper
    called `module` was around the whole model.
    """

    bundle: Bundle
    said: str | None
    is_whole: bool

    def with_config(self, fields: Collection[str]) -> tuple[Bundle, tuple[Note, ...]]:
        """The bundle, the names in these fields of its config without wrappers too; and a note."""
        before = self.bundle.config
        config = None if before is None else _unwrapped_config(before, fields, self.is_whole)
        if self.said is None and config == before:
            return self.bundle, ()
        said = self.said or "names in the config are read without the wrappers of a running program"
        return replace(self.bundle, config=config), (Note("info", said),)


def unwrapped_names(bundle: Bundle, prefixes: Iterable[str]) -> Unwrapped:
    """The bundle with one name for each tensor.

    A wrapper may also stand around or inside a dialect's own prefix, as in
    `module.base_model.module.model.`; `prefixes` are those of all dialects.

    Raises:
        FormatError: two tensors have the same name without wrappers.
    """
    if not may_be_wrapped(bundle.tensors):
        return Unwrapped(bundle, None, is_whole=False)
    plain = _plain_keys(bundle, _around(prefixes))
    is_whole = any(
        unwrapped(key).count("module.") > name.count("module.") for key, name in plain.items()
    )
    said = renaming(plain)
    tensors = {plain[key]: source for key, source in bundle.tensors.items()}
    return Unwrapped(replace(bundle, tensors=tensors), said, is_whole)


def _around(prefixes: Iterable[str]) -> re.Pattern[str]:
    """The prefixes of dialects, once or more, and what may have been put around their parts."""
    parts = (prefix.rstrip(".").split(".") for prefix in prefixes if prefix)
    forms = ("".join(rf"(?:module\.)*{re.escape(part)}\." for part in names) for names in parts)
    return re.compile(f"(?:{'|'.join(forms)})+")


def _plain_keys(bundle: Bundle, around: re.Pattern[str]) -> Mapping[str, str]:
    """Each key of the bundle, and its name without wrappers."""
    plain = _without_modules(
        {key: around.sub(_without_module, unwrapped(key), count=1) for key in bundle.tensors},
        around,
        bundle.where,
    )
    return distinct(plain, bundle.where)


def _without_module(match: re.Match[str]) -> str:
    return match[0].replace("module.", "")


def _without_modules(
    plain: Mapping[str, str], around: re.Pattern[str], where: str
) -> Mapping[str, str]:
    """Leave out a module called `module` that all of a model is in, or all of a flattened part."""
    for mark in ("module.", "module_"):
        if not any(mark in name for name in plain.values()):
            continue
        parts: dict[str, dict[str, tuple[str, str]]] = {}
        for key, name in plain.items():
            head = _head(name, around)
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


def _head(name: str, around: re.Pattern[str]) -> str:
    """A dialect's prefix, or that of a flattened name: what comes before the name of a module."""
    match = around.match(name)
    return match[0] if match else flattened_prefix(name)


def _unwrapped_config(
    config: Mapping[str, Any], fields: Collection[str], is_whole: bool
) -> Mapping[str, Any]:
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

    return {**config, **{name: plain_field(config[name]) for name in fields if config.get(name)}}
