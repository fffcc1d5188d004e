"""PEFT's `adapter_config.json`, as far as it decides what stored tensors mean."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, final

from loratools.adapter import Note
from loratools.deltas.lora import Scaling
from loratools.errors import FormatError, UnsupportedError

_T = TypeVar("_T")

_NOT_WEIGHTS = {
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

#: Initialisations that take something out of the base before training starts.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

_REFUSED_SETTINGS = {
    "alora_invocation_tokens": "aLoRA acts only after its invocation tokens, not on every token",
    "arrow_config": "Arrow mixes its experts by each token",
    "use_qalora": "QA-LoRA pools the inputs of a quantised layer; it has no update of the weight",
    "layer_replication": (
        "layer_replication: the adapter belongs to a model with repeated layers, "
        "which the base does not store"
    ),
    "target_parameters": "target_parameters (fused experts) cannot be merged yet",
}


@final
@dataclass(frozen=True)
class PeftConfig:
    """The fields that matter offline; `fields` keeps all of them."""

    where: str
    fields: Mapping[str, Any]
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]

    def flag(self, name: str) -> bool:
        """A boolean field; absent is false."""
        return bool(self.fields.get(name))

    def text(self, name: str) -> str | None:
        """A field of text, None where it is absent or empty."""
        value = self.fields.get(name)
        return value if isinstance(value, str) and value else None

    def names(self, name: str) -> tuple[str, ...]:
        """A field that lists names, or is one name; empty where it is absent."""
        value = self.fields.get(name)
        if isinstance(value, str):
            return (value,)
        return tuple(str(item) for item in value) if isinstance(value, list) else ()

    def enabled(self) -> tuple[bool, ...]:
        """Which parts of a fused weight an old `MergedLinear` updates; empty for all other."""
        value = self.fields.get("enable_lora")
        return tuple(bool(item) for item in value) if isinstance(value, list) else ()

    def expected_rank(self, module: str) -> int:
        """The rank that the config gives to `module`."""
        return _by_pattern(self.rank_pattern, module, self.rank, self.where)

    def scaling(self, module: str, times: int = 1) -> Scaling:
        """The scaling of `module`; rank and alpha patterns are matched independently."""
        alpha = _by_pattern(self.alpha_pattern, module, None, self.where)
        return Scaling(
            alpha=self.alpha if alpha is None else alpha,
            rank=self.expected_rank(module),
            rule="sqrt_rank" if self.flag("use_rslora") else "rank",
            origin="config" if alpha is None else "alpha_pattern",
            times=times,
        )

    def blocks(self, module: str) -> tuple[str, int] | None:
        """Which factor of a BD-LoRA is block-diagonal, `up` or `down`, and its number of blocks."""
        settings = self.fields.get("use_bdlora")
        if not isinstance(settings, dict):
            return None
        for field, factor in (("target_modules_bd_a", "down"), ("target_modules_bd_b", "up")):
            # PEFT looks for these names anywhere in the path.
            names = settings.get(field)
            if isinstance(names, list) and any(str(name) in module for name in names):
                return factor, _integer(settings, "nblocks", f"{self.where}: use_bdlora")
        return None

    def matching_patterns(self, field: str, module: str) -> tuple[tuple[str, float], ...]:
        """The entries of `rank_pattern` or `alpha_pattern` that match a module, in file order."""
        patterns = self.rank_pattern if field == "rank_pattern" else self.alpha_pattern
        return tuple(
            (key, value)
            for key, value in patterns.items()
            if _matches(rf"(.*\.)?({key})", module, self.where)
        )

    def is_target(self, module: str) -> bool | None:
        """Whether `target_modules` names `module`; None where the config does not decide it."""
        targets = self.fields.get("target_modules")
        if isinstance(targets, str):
            return None if targets == "all-linear" else _matches(targets, module, self.where)
        if isinstance(targets, list):
            if any(module == name or module.endswith(f".{name}") for name in targets):
                return True
            # PEFT then also wraps the other end of a tied embedding, and does not list it.
            return None if self.flag("ensure_weight_tying") else False
        return None

    def leaves_out(self, module: str) -> bool:
        """Whether PEFT passes over a module that `target_modules` names: excluded, or elsewhere."""
        excluded = self.fields.get("exclude_modules") or ()
        if isinstance(excluded, str):
            if _matches(excluded, module, self.where):
                return True
        elif any(module == name or module.endswith(f".{name}") for name in excluded):
            return True
        layers, targets = self.fields.get("layers_to_transform"), self.fields.get("target_modules")
        if layers is None or layers == [] or isinstance(targets, str) or module in (targets or ()):
            return False
        number = self._layer(module)
        return number is None or number not in (layers if isinstance(layers, list) else [layers])

    def _layer(self, module: str) -> int | None:
        """PEFT's rule: the first number behind one of the names of lists, or behind any name."""
        patterns = [rf"(?:^|.*?\.){name}" for name in self.names("layers_pattern") if name]
        for pattern in patterns or [r".*?\.[^.]*"]:
            found = re.match(rf"{pattern}\.(\d+)\.", module)
            if found:
                return int(found[found.lastindex or 0])
        return None

    def notes(self) -> Iterator[Note]:
        """What the config alone says against a merge."""
        for setting, reason in _REFUSED_SETTINGS.items():
            if self.fields.get(setting):
                yield Note("refusal", reason)
        init = self.fields.get("init_lora_weights")
        if isinstance(init, str) and init.lower().startswith(_CHANGED_BASE):
            yield Note(
                "refusal",
                f"init_lora_weights is {init!r}: training started from a changed base, and the "
                f"adapter was never converted; save it with PEFT's "
                f"path_initial_model_for_weight_conversion first",
            )


def parse_config(fields: Mapping[str, Any], where: str) -> PeftConfig:
    """The config of a LoRA adapter.

    Raises:
        FormatError: a field that decides the scaling is missing or of the wrong type.
        UnsupportedError: the adapter is of another type than LORA.
    """
    peft_type = fields.get("peft_type")
    if peft_type != "LORA":
        raise UnsupportedError(f"{where}: {_refusal_of_type(peft_type)}")
    return PeftConfig(
        where=where,
        fields=fields,
        rank=_integer(fields, "r", where),
        alpha=_number(fields, "lora_alpha", where),
        rank_pattern=_numbers(fields, "rank_pattern", int, where),
        alpha_pattern=_numbers(fields, "alpha_pattern", float, where),
    )


def _refusal_of_type(peft_type: object) -> str:
    if not isinstance(peft_type, str):
        return "the config has no peft_type"
    if peft_type in _NOT_WEIGHTS:
        return f"peft_type {peft_type} {_NOT_WEIGHTS[peft_type]}; it is no update of weights"
    return f"peft_type {peft_type!r:.40} is not supported yet (LORA is)"


def _by_pattern(patterns: Mapping[str, _T], module: str, default: _T, where: str) -> _T:
    """PEFT's rule: the first pattern that matches to the end, from the start or after a dot."""
    for pattern, value in patterns.items():
        if _matches(rf"(.*\.)?({pattern})", module, where):
            return value
    return patterns.get(module, default)


def _matches(pattern: str, module: str, where: str) -> bool:
    try:
        return re.fullmatch(pattern, module) is not None
    except re.error as error:
        raise FormatError(f"{where}: {pattern!r:.80} is not a regular expression") from error


def _integer(fields: Mapping[str, Any], name: str, where: str) -> int:
    value = _number(fields, name, where)
    if value < 1 or not float(value).is_integer():
        raise FormatError(f"{where}: {name} must be a positive integer, is {value!r}")
    return int(value)


def _number(fields: Mapping[str, Any], name: str, where: str) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise FormatError(f"{where}: {name} must be a finite number, is {value!r:.40}")
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON's integers have no limit
        return False


def _numbers(fields: Mapping[str, Any], name: str, kind: type, where: str) -> Mapping[str, Any]:
    value = fields.get(name) or {}
    if not isinstance(value, dict):
        raise FormatError(f"{where}: {name} must map names to numbers")
    return {
        key: (_integer if kind is int else _number)(value, key, f"{where}: {name}") for key in value
    }
