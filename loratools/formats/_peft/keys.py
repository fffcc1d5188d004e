"""Sorts the tensors of a PEFT adapter into groups by their keys.

A key is `base_model.model.<module>.<part>`. The part may contain the adapter's name, as in
`lora_A.default.weight`. A key without a part is that of a whole tensor: of a trained module, a
bias, or a weight of the base that PEFT saved with the adapter.
"""

import re
from dataclasses import dataclass, field
from typing import final

from loratools.errors import FormatError, UnsupportedError, listing, shorten
from loratools.formats._part_names import named_part, possible_part
from loratools.formats._peft.codecs import Codecs
from loratools.formats._peft.config import PeftConfig
from loratools.io.bundle import Bundle
from loratools.io.source import Source
from loratools.names.saved import SavedNames
from loratools.parts import Copy, Note, Replacement

PREFIX = "base_model.model."
#: The prefix of tensors that belong to the whole model.
AROUND = "base_model."
#: The heads that PEFT trains for a task. They count as trained by their names alone, also where the
#: config has no task.
HEADS = ("classifier", "score", "qa_outputs")
#: How many times PEFT applies the update of a MultiheadAttention's out_proj.
OUT_PROJ_TIMES = 2
_TOKENS = re.compile(
    r"(?P<module>.+?)\.(?:token_adapter\.)?trainable_tokens_delta(?:\.(?P<adapter>[^.]+))?"
)
_SAVED = re.compile(r"(?P<module>.+)\.modules_to_save(?:\.(?P<adapter>[^.]+))?\.(?P<rest>.+)")
_BASE_LAYER = re.compile(r"(\.token_adapter)?\.base_layer(?=\.)")
#: Parts of keys of tensors without effect, each with the reason.
_INERT = {".original_module.": "the base's own weights, as they were"}
#: Strings in keys that `place` treats specially for every type, so that `place_usual` must not.
_MARKS = ("original_module", "trainable_tokens")


@final
@dataclass
class Parts:
    """The tensors of a bundle, sorted into groups.

    Attributes:
        modules: parts of updates by module and role.
        shared: parts that belong to the whole model, by role.
        tokens: rows of trained tokens by module.
        plain: whole tensors by target.
        saved: whole tensors from keys with `modules_to_save`, by target; may repeat plain ones.
        base_layers: the base's own tensors, which PEFT saved from inside its wrappers, by target.
        inert: the keys of tensors without effect, each with the reason.
        notes: remarks on the keys.
    """

    modules: dict[str, dict[str, Source]] = field(default_factory=dict)
    shared: dict[str, Source] = field(default_factory=dict)
    tokens: dict[str, Source] = field(default_factory=dict)
    plain: dict[str, Source] = field(default_factory=dict)
    saved: dict[str, Source] = field(default_factory=dict)
    base_layers: dict[str, Source] = field(default_factory=dict)
    inert: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    def attention_modules(self) -> frozenset[str]:
        """The MultiheadAttention modules, recognised by the wrapped `out_proj` inside them."""
        suffix = ".base_layer.out_proj"
        return frozenset(m.removesuffix(suffix) for m in self.modules if m.endswith(suffix))

    def replaced(self, config: PeftConfig) -> dict[str, Replacement]:
        """The whole tensors by target, each with whether it was trained or is the base's own."""
        listed = SavedNames(config.saved_modules())
        biases = config.text("bias") in ("all", "lora_only")
        replaced = {}
        for target, source in (self.base_layers | self.saved | self.plain).items():
            is_trained = (
                target in self.saved
                or listed.hold(target)
                or target.partition(".")[0].endswith(HEADS)
                or (biases and "bias" in target)
            )
            replaced[target] = Replacement(source, is_trained)
        return replaced

    def refuse_strays(self, config: PeftConfig, where: str) -> None:
        """Refuse parts of updates that would pass as whole tensors, such as kohya's alpha.

        A module in `modules_to_save` may have parameters with such names. A module that is updated
        has a weight, and may have biases, but nothing else.

        Raises:
            UnsupportedError: there is such a tensor.
        """
        listed = SavedNames(config.saved_modules())
        for target, source in self.plain.items():
            owner, _, name = target.rpartition(".")
            is_updated = owner in self.modules
            kind = None if listed.hold(target) and not is_updated else possible_part(target)
            if is_updated and name != "weight" and "bias" not in name:
                kind = kind or "neither a weight nor a bias of the module that it belongs to"
            if kind is not None:
                raise UnsupportedError(
                    f"{where}: {shorten(source.keys[0])}: {kind}, which PEFT's "
                    f"{config.type.title} does not have",
                    tensor=source.keys[0],
                    hint="remove it, if the config says the same",
                )

    def copies(self) -> tuple[Copy, ...]:
        """The tensors that PEFT stored twice: under `modules_to_save` and under the plain name."""
        return tuple(
            Copy(source, self.plain[target])
            for target, source in self.saved.items()
            if target in self.plain
        )


def sort_keys(bundle: Bundle, codecs: Codecs) -> Parts:
    """Sort every tensor of `bundle` into the group that it belongs to.

    Raises:
        FormatError: two keys mean the same part, or there are several adapters.
        UnsupportedError: there is a part of an update that the type of the config does not have.
    """
    sorter = _Sorter(bundle.where, codecs)
    parts = sorter.parts
    adapters: dict[str, None] = {}
    depths: dict[int, str] = {}
    for key, source in bundle.tensors.items():
        if sorter.place_usual(key, source):
            continue
        depth, adapter = sorter.place(key, source)
        depths.setdefault(depth, key)
        if adapter:
            adapters[adapter] = None
    if len(adapters) > 1:
        raise FormatError(
            f"{bundle.where}: holds several adapters ({listing(adapters)})",
            hint="save each by itself",
        )
    trained = parts.saved.keys() | parts.plain.keys()
    for target in [name for name in parts.base_layers if name in trained]:
        parts.inert[parts.base_layers.pop(target).keys[0]] = "the base's own, stored trained too"
    if max(depths, default=1) > 1:
        parts.notes.append(Note("info", f"keys repeat the prefix {PREFIX}: it was wrapped twice"))
    if 0 in depths:
        parts.notes.append(Note("info", f"keys lack the prefix {PREFIX}: {shorten(depths[0])}"))
    return parts


@final
class _Sorter:
    """Sorts tensors into groups, by the names of parts that the codecs of a type state."""

    def __init__(self, where: str, codecs: Codecs) -> None:
        self.where = where
        self.parts = Parts()
        self._codecs = codecs
        self._type = codecs.type
        self._roles = frozenset(codecs.names)
        self._inert = {**_INERT, **codecs.type.inert}
        self._marks = (*codecs.marks, *self._inert, *_MARKS)
        shared = "|".join(map(re.escape, self._type.shared))
        # The head of the last usual key, up to the part's name, and the parts of its module.
        self._head: str | None = None
        self._roles_at_head: dict[str, Source] = {}
        self._shared = re.compile(rf"{re.escape(AROUND)}({shared or '(?!)'})(?:\.([^.]+))?")

    def place_usual(self, key: str, source: Source) -> bool:
        """Put a tensor into its group, if its key is the usual one of a part; else do nothing.

        This fast path takes a fifth of the time of the regular expression, and nearly all keys
        take it. It leaves to `place` whatever that treats in another way.
        """
        head, _, role = key.removesuffix(".weight").rpartition(".")
        if role not in self._roles:
            return False
        # The parts of a module follow each other in a file, so its name is checked only once.
        if head != self._head:
            if not self._is_usual(head):
                return False
            module = head.removeprefix(PREFIX)
            self._head, self._roles_at_head = head, self.parts.modules.setdefault(module, {})
        if role in self._roles_at_head:
            return False  # `place` refuses the repetition
        self._roles_at_head[role] = source
        return True

    def _is_usual(self, head: str) -> bool:
        """Whether `head` is the prefix and a module, without anything that `place` looks for.

        That is the prefix once more, a newline, or one of the marks.
        """
        module = head.removeprefix(PREFIX)
        if module in ("", head) or module.startswith(PREFIX.removesuffix(".")) or "\n" in module:
            return False
        for mark in self._marks:  # noqa: SIM110 (half the time of `any`, at one call a module)
            if mark in module:
                return False
        return True

    def place(self, key: str, source: Source) -> tuple[int, str | None]:
        """Put one tensor into its group.

        Returns how many times its key has PEFT's prefix, and the adapter's name in it, if any.
        """
        if match := self._shared.fullmatch(key):
            _add(self.parts.shared, match[1], key, source)
            return 1, match[2]
        depth, name = _strip_prefix(key)
        return depth, self._place(key, name, source)

    def _place(self, key: str, name: str, source: Source) -> str | None:
        """Put a tensor into its group; `name` is its key without PEFT's prefix.

        Returns the adapter's name in the key, if any.
        """
        dotted = f".{name}"
        for marker, reason in self._inert.items():
            if marker in dotted:
                self.parts.inert[key] = reason
                return None
        if match := self._codecs.part.fullmatch(name):
            module, role, adapter, parameter = match.groups()
            role = f"{role}.bias" if parameter == "bias" else role
            _add(self.parts.modules.setdefault(module, {}), role, key, source)
            return adapter
        if match := _TOKENS.fullmatch(name):
            _add(self.parts.tokens, match["module"], key, source)
            return match["adapter"]
        return self._place_whole(key, name, source)

    def _place_whole(self, key: str, name: str, source: Source) -> str | None:
        """Put a whole tensor into its group; refuse a part that the type does not have."""
        unknown = f"not a part of {self._type.title} that is known here"
        if kind := named_part(name):
            raise UnsupportedError(f"{self.where}: {shorten(key)}: {kind}, {unknown}", tensor=key)
        if match := _SAVED.fullmatch(name):
            _add(self.parts.saved, f"{match['module']}.{match['rest']}", key, source)
            return match["adapter"]
        if re.search(r"(^|\.)lora_[^.]*(\.|$)", name):
            raise UnsupportedError(f"{self.where}: {shorten(key)}: {unknown}", tensor=key)
        plain = _BASE_LAYER.sub("", name)
        group = self.parts.plain if plain == name else self.parts.base_layers
        _add(group, plain, key, source)
        return None


def _strip_prefix(key: str) -> tuple[int, str]:
    depth = 0
    while key.startswith(PREFIX):
        key = key.removeprefix(PREFIX)
        depth += 1
    return depth, key


def _add(group: dict[str, Source], name: str, key: str, source: Source) -> None:
    if name in group:
        raise FormatError(
            f"{shorten(key)}: says the same as {shorten(group[name].keys[0])}", tensor=key
        )
    group[name] = source
