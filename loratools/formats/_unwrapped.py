"""Removes the wrappers of a running program from a bundle's names, before any dialect reads it.

So each module has the same name whether it was stored with wrappers or without. `names.wrappers`
says which names are wrappers.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

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
from loratools.parts import Note

#: What may follow a module's name. A name that continues with this after `module.` has no other
#: module name: `module` is then the module itself, and no wrapper.
_NAMELESS = re.compile(
    r"(lora_(embedding_)?[ABab]|lora_magnitude_vector|lora_diag|modules_to_save|base_layer)(\.|$)"
    r"|weight$|bias$"
)


@final
@dataclass(frozen=True)
class Unwrapped:
    """A bundle whose tensors have names without wrappers; names in its config may still have them.

    `remark` is the text of a note on the renaming, None if no tensor was renamed. `is_whole` is
    whether a wrapper called `module` was around the whole model.
    """

    bundle: Bundle
    remark: str | None
    is_whole: bool

    def with_config(self, fields: Collection[str]) -> tuple[Bundle, tuple[Note, ...]]:
        """Remove wrappers from the names in these fields of the config too.

        Returns the bundle, and a note if any tensor or field was renamed.
        """
        before = self.bundle.config
        config = None if before is None else _unwrapped_config(before, fields, self.is_whole)
        if self.remark is None and config == before:
            return self.bundle, ()
        usual = "names in the config are read without the wrappers of a running program"
        return replace(self.bundle, config=config), (Note("info", self.remark or usual),)


def unwrapped_names(bundle: Bundle, prefixes: Iterable[str]) -> Unwrapped:
    """The bundle with the wrappers removed from the names of its tensors.

    A wrapper may also stand around or inside a dialect's own prefix, as in
    `module.base_model.module.model.`; `prefixes` are the prefixes of all dialects.

    Raises:
        FormatError: two tensors have the same name without wrappers.
    """
    if not may_be_wrapped(bundle.tensors):
        return Unwrapped(bundle, None, is_whole=False)
    plain = _plain_keys(bundle, _around(prefixes))
    is_whole = any(
        unwrapped(key).count("module.") > name.count("module.") for key, name in plain.items()
    )
    remark = renaming(plain)
    tensors = {plain[key]: source for key, source in bundle.tensors.items()}
    return Unwrapped(replace(bundle, tensors=tensors), remark, is_whole)


def _around(prefixes: Iterable[str]) -> re.Pattern[str]:
    """Match one or more prefixes of dialects, with wrappers called `module` between their parts."""
    parts = (prefix.rstrip(".").split(".") for prefix in prefixes if prefix)
    forms = ("".join(rf"(?:module\.)*{re.escape(part)}\." for part in names) for names in parts)
    return re.compile(f"(?:{'|'.join(forms)})+")


def _plain_keys(bundle: Bundle, around: re.Pattern[str]) -> Mapping[str, str]:
    """Map each key of the bundle to its name without wrappers."""
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
    """Remove a wrapper called `module` that contains a whole model, or a whole part of one.

    `module` may also be the name of a module, so it is a wrapper only if all names begin with it.
    Flattened names are compared by part, such as `lora_unet_` and `lora_te_`, because a program may
    wrap one part and not the other.
    """
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
    """Remove the wrapper `mark` from names, each a prefix and the rest, if all rests begin with it.

    Raises:
        FormatError: two names differ only by the wrapper, so that they may be the same tensor.
    """
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
                f"inside of a wrapper called 'module'",
                tensor=other,
                hint="rename or remove one of them",
            )
    return {key: head + rests[key] for key, (head, _) in names.items()}


def _head(name: str, around: re.Pattern[str]) -> str:
    """The text before the module's own name: the prefix of a dialect, or of a flattened name."""
    match = around.match(name)
    return match[0] if match else flattened_prefix(name)


def _unwrapped_config(
    config: Mapping[str, Any], fields: Collection[str], is_whole: bool
) -> Mapping[str, Any]:
    """The config with the wrappers removed from the names and patterns in `fields`."""

    def plain(name: Any) -> Any:
        if not isinstance(name, str):
            return name
        pattern = unwrapped_pattern(name)
        return re.sub(r"^(\^?)(module\\?\.)+", r"\1", pattern) if is_whole else pattern

    def plain_field(value: Any) -> Any:
        if isinstance(value, list):
            # What was nothing but wrappers is empty now, and names no module.
            return [name for name in map(plain, value) if name != ""]
        if isinstance(value, dict):
            renamed: dict[Any, Any] = {}
            for name, number in value.items():
                # Of two patterns that are now the same, the first counts, as in PEFT.
                renamed.setdefault(plain(name), number)
            return renamed
        return plain(value)

    return {**config, **{name: plain_field(config[name]) for name in fields if config.get(name)}}
