"""PEFT's keys: `base_model.model.<module>.<part>`, sorted by what the tensors are.

The part may carry the adapter's name, `lora_A.default.weight`. What no LoRA part ends is a whole
tensor: a trained module, a bias, or a weight of the base that PEFT saved with the adapter.
"""

import re
from dataclasses import dataclass, field
from typing import final

from loratools.adapter import Copy, Note, Replacement
from loratools.errors import FormatError, UnsupportedError, listing, shorten
from loratools.formats._part_names import named_part, possible_part
from loratools.formats.peft.config import PeftConfig
from loratools.io.bundle import Bundle
from loratools.io.source import Source
from loratools.names.saved import SavedNames

PREFIX = "base_model.model."
#: Heads that PEFT trains for a task. A task that is not said leaves no doubt about their names.
HEADS = ("classifier", "score", "qa_outputs")
#: How often PEFT applies the update of a MultiheadAttention's out_proj.
OUT_PROJ_TIMES = 2
_PART = re.compile(
    r"""(?P<module>.+?)\.(?:
        (?P<role>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|lora_diag)
        (?:\.(?P<adapter>(?!weight$|bias$)[^.]+))? (?:\.(?P<parameter>weight|bias))?
      | (?:token_adapter\.)?(?P<tokens>trainable_tokens_delta) (?:\.(?P<tokens_adapter>[^.]+))?
    )""",
    re.VERBOSE,
)
_USUAL_PAIR = {"A.weight": "lora_A", "B.weight": "lora_B"}
_SAVED = re.compile(r"(?P<module>.+)\.modules_to_save(?:\.(?P<adapter>[^.]+))?\.(?P<rest>.+)")
_BASE_LAYER = re.compile(r"(\.token_adapter)?\.base_layer(?=\.)")
_INERT = {
    ".original_module.": "the base's own weights, as they were",
    ".lora_monteclora_sampler": "used in training only",
    ".lora_velora_embed": "used in training only",
}


@final
@dataclass
class Parts:
    """The tensors of a bundle.

    Attributes:
        modules: LoRA parts by module and role.
        tokens: rows of trained tokens by module.
        plain: whole tensors by parameter.
        saved: whole tensors under `modules_to_save`, which may repeat plain ones.
        base_layers: weights of the base's own, from inside a wrapper.
        inert: keys without effect, and the reason.
    """

    modules: dict[str, dict[str, Source]] = field(default_factory=dict)
    tokens: dict[str, Source] = field(default_factory=dict)
    plain: dict[str, Source] = field(default_factory=dict)
    saved: dict[str, Source] = field(default_factory=dict)
    base_layers: dict[str, Source] = field(default_factory=dict)
    inert: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    def attention_modules(self) -> frozenset[str]:
        """The MultiheadAttention modules, known by the wrapped projection inside them."""
        suffix = ".base_layer.out_proj"
        return frozenset(m.removesuffix(suffix) for m in self.modules if m.endswith(suffix))

    def replaced(self, config: PeftConfig) -> dict[str, Replacement]:
        """Whole tensors by target, and whether they were trained or are the base's own."""
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

    def refuse_strays(self, config: PeftConfig) -> None:
        """Refuse parts of other dialects that would pass as whole tensors, such as an alpha.

        A module that the config says is saved may have parameters of such names. One that is
        updated has a weight, and may have biases, but nothing else.

        Raises:
            UnsupportedError: there is one.
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
                    f"{config.where}: {shorten(source.keys[0])}: {kind}, which PEFT's LoRA does "
                    f"not have; remove it, if the config says the same"
                )

    def copies(self) -> tuple[Copy, ...]:
        """Tensors that a wrapper stored a second time under its own name."""
        return tuple(
            Copy(source, self.plain[target])
            for target, source in self.saved.items()
            if target in self.plain
        )


def sort_keys(bundle: Bundle) -> Parts:
    """Every tensor of `bundle` in the group it belongs to.

    Raises:
        FormatError: two keys mean the same part, or there are several adapters.
        UnsupportedError: a part of an update that has no place in PEFT's LoRA.
    """
    parts = Parts()
    adapters: dict[str, None] = {}
    depths: dict[int, str] = {}
    for key, source in bundle.tensors.items():
        if pair := _usual_pair(key):
            module, role = pair
            depth, adapter = 1, None
            _add(parts.modules.setdefault(module, {}), role, key, source)
        else:
            depth, name = _strip_prefix(key)
            adapter = _place(parts, bundle.where, key, name, source)
        depths.setdefault(depth, key)
        if adapter:
            adapters[adapter] = None
    if len(adapters) > 1:
        raise FormatError(
            f"{bundle.where}: holds several adapters ({listing(adapters)}); save each by itself"
        )
    trained = parts.saved.keys() | parts.plain.keys()
    for target in [name for name in parts.base_layers if name in trained]:
        parts.inert[parts.base_layers.pop(target).keys[0]] = "the base's own, stored trained too"
    if max(depths, default=1) > 1:
        parts.notes.append(Note("info", f"keys repeat the prefix {PREFIX}: it was wrapped twice"))
    if 0 in depths:
        parts.notes.append(Note("info", f"keys lack the prefix {PREFIX}: {shorten(depths[0])}"))
    return parts


def _usual_pair(key: str) -> tuple[str, str] | None:
    """Module and role of a factor with the usual name, for a fifth of what `_PART` costs.

    None for any other key, and where the module's own name has something that `_place` looks for.
    """
    head, _, part = key.rpartition(".lora_")
    role = _USUAL_PAIR.get(part)
    if role is None or not head.startswith(PREFIX):
        return None
    module = head.removeprefix(PREFIX)
    if not module or module.startswith(PREFIX.removesuffix(".")):
        return None
    if "lora_" in module or "original_module" in module or "trainable_tokens" in module:
        return None
    return None if "\n" in module else (module, role)


def _strip_prefix(key: str) -> tuple[int, str]:
    depth = 0
    while key.startswith(PREFIX):
        key = key.removeprefix(PREFIX)
        depth += 1
    return depth, key


def _place(parts: Parts, where: str, key: str, name: str, source: Source) -> str | None:
    """Put one tensor into its group; the adapter's name if the key carries it."""
    dotted = f".{name}"
    for marker, reason in _INERT.items():
        if marker in dotted:
            parts.inert[key] = reason
            return None
    if match := _PART.fullmatch(name):
        module, role, adapter, parameter, tokens, tokens_adapter = match.groups()
        if tokens:
            _add(parts.tokens, module, key, source)
            return tokens_adapter
        role = f"{role}.bias" if parameter == "bias" else role
        _add(parts.modules.setdefault(module, {}), role, key, source)
        return adapter
    if kind := named_part(name):
        raise UnsupportedError(
            f"{where}: {shorten(key)}: {kind}, not a part of LoRA that is known here"
        )
    if match := _SAVED.fullmatch(name):
        _add(parts.saved, f"{match['module']}.{match['rest']}", key, source)
        return match["adapter"]
    if re.search(r"(^|\.)lora_[^.]*(\.|$)", name):
        raise UnsupportedError(f"{where}: {shorten(key)}: not a part of LoRA that is known here")
    plain = _BASE_LAYER.sub("", name)
    _add(parts.plain if plain == name else parts.base_layers, plain, key, source)
    return None


def _add(group: dict[str, Source], name: str, key: str, source: Source) -> None:
    if name in group:
        raise FormatError(f"{shorten(key)}: says the same as {shorten(group[name].keys[0])}")
    group[name] = source
