"""PEFT's `adapter_config.json`, as far as it decides what stored tensors mean."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

from loratools.adapter import Note
from loratools.deltas.lora import Rule, Scaling
from loratools.errors import FormatError, UnsupportedError
from loratools.formats.peft.patterns import Pattern, matched, named

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

#: The heads that PEFT trains for a task, whatever `modules_to_save` lists.
_HEAD_MODULES = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
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
_NAME_FIELDS = ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save")
#: PEFT's rule where no `layers_pattern` says which lists have layers.
_FIRST_NUMBER = re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")
#: No model has more layers than that; `int` refuses thousands of digits.
_LAYER_DIGITS = 20


@final
@dataclass(frozen=True)
class PeftConfig:
    """The fields that matter offline; `fields` keeps all of them.

    Patterns are matched with all `modules` at once, since that may take a process of its own. A
    question about another module is answered too, and costs as much again.
    """

    where: str
    fields: Mapping[str, Any]
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    modules: tuple[str, ...] = ()

    def about(self, modules: Sequence[str]) -> "PeftConfig":
        """The same config, its patterns matched with these modules.

        Raises:
            FormatError: a pattern is not a regular expression, or cannot be matched within the
                limits.
        """
        config = replace(self, modules=tuple(modules))
        assert config._matches.keys() >= {"rank_pattern", "alpha_pattern"}
        return config

    def flag(self, name: str) -> bool:
        """A boolean field; absent is false."""
        return bool(self.fields.get(name))

    def text(self, name: str) -> str | None:
        """A field of text, None where it is absent or empty."""
        value = self.fields.get(name)
        return value if isinstance(value, str) and value else None

    @property
    def version(self) -> tuple[int, ...]:
        """That of the PEFT that wrote it; empty where it does not say, as before 0.18."""
        return tuple(int(n) for n in re.findall(r"\d+", self.text("peft_version") or "")[:3])

    def names(self, name: str) -> tuple[str, ...]:
        """A field that lists names, or is one name; empty where it is absent."""
        value = self.fields.get(name)
        if isinstance(value, str):
            return (value,) if value else ()
        return tuple(str(item) for item in value) if isinstance(value, list) else ()

    def saved_modules(self) -> tuple[str, ...]:
        """The modules that PEFT saves whole: those listed, and by the task those of its head."""
        listed = self.names("modules_to_save")
        return tuple(dict.fromkeys((*listed, *head_modules(self.fields.get("task_type")))))

    def enabled(self) -> tuple[bool, ...]:
        """Which parts of a fused weight an old `MergedLinear` updates; empty for all other."""
        value = self.fields.get("enable_lora")
        return tuple(bool(item) for item in value) if isinstance(value, list) else ()

    def expected_rank(self, module: str) -> int:
        """The rank that the config gives to `module`: that of the first pattern that matches."""
        if not self.rank_pattern:
            return self.rank
        keys = self._matching("rank_pattern", module)
        return self.rank_pattern[keys[0]] if keys else self.rank_pattern.get(module, self.rank)

    def scaling(self, module: str) -> Scaling:
        """The scaling of `module`; rank and alpha patterns are matched independently."""
        if not (self.rank_pattern or self.alpha_pattern):
            return self._common_scaling
        keys = self._matching("alpha_pattern", module)
        alpha = self.alpha_pattern[keys[0]] if keys else self.alpha_pattern.get(module)
        return replace(
            self._common_scaling,
            alpha=self.alpha if alpha is None else alpha,
            rank=self.expected_rank(module),
            origin="config" if alpha is None else "alpha_pattern",
        )

    @cached_property
    def _common_scaling(self) -> Scaling:
        """That of modules which no pattern names."""
        rule: Rule = "sqrt_rank" if self.flag("use_rslora") else "rank"
        return Scaling(self.alpha, self.rank, rule, "config")

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
        values = self.rank_pattern if field == "rank_pattern" else self.alpha_pattern
        return tuple((key, values[key]) for key in self._matching(field, module))

    def is_target(self, module: str) -> bool | None:
        """Whether `target_modules` names `module`; None where the config does not decide it."""
        targets = self.fields.get("target_modules")
        if targets is None or (isinstance(targets, str) and targets.lower() == "all-linear"):
            return None
        if self._matching("target_modules", module):
            return True
        # PEFT then also wraps the other end of a tied embedding, and does not list it.
        return None if isinstance(targets, list) and self.flag("ensure_weight_tying") else False

    def unused_targets(self) -> tuple[str, ...]:
        """The names that `target_modules` lists and that mean none of the modules asked about."""
        targets = self.fields.get("target_modules")
        used = {name for names in self._matches["target_modules"].values() for name in names}
        listed = targets if isinstance(targets, list) else ()
        return tuple(name for name in dict.fromkeys(listed) if name not in used)

    @property
    def is_narrowed(self) -> bool:
        """Whether PEFT may pass over a module that `target_modules` lists."""
        narrowing = ("exclude_modules", "layers_to_transform", "layers_pattern")
        return any(map(self.fields.get, narrowing))

    def untargeted(self, modules: Iterable[str]) -> list[str]:
        """Those of the modules that `target_modules` does not name, where it decides that."""
        hits = self._matches["target_modules"]
        return [m for m in modules if m not in hits and self.is_target(m) is False]

    @property
    def may_leave_out(self) -> bool:
        """Whether `leaves_out` can say yes."""
        return bool(self.fields.get("exclude_modules")) or self._layers is not None

    def leaves_out(self, module: str) -> bool:
        """Whether PEFT passes over a module that `target_modules` names: excluded, or elsewhere."""
        if self._matching("exclude_modules", module):
            return True
        if self._layers is None or module in self._listed_targets:
            return False
        return self._layer(module) not in self._layers

    def saves_whole(self, module: str) -> str | None:
        """The name in `modules_to_save` by which PEFT passes over a module: it saves it whole."""
        found = self._matching("modules_to_save", module)
        return found[0] if found else None

    def _layer(self, module: str) -> int | None:
        """PEFT's rule: the first number behind one of the names of lists, or behind any name."""
        if self.fields.get("layers_pattern"):
            digits = (*self._matching("layers_pattern", module), None)[0]
        else:
            found = _FIRST_NUMBER.match(module)
            digits = found["idx"] if found else None
        return int(digits) if digits is not None and len(digits) <= _LAYER_DIGITS else None

    @cached_property
    def _layers(self) -> frozenset[int] | None:
        """The layers that `layers_to_transform` restricts a list of names to, None for all."""
        layers = self.fields.get("layers_to_transform")
        if layers is None or layers == [] or isinstance(self.fields.get("target_modules"), str):
            return None
        return frozenset(layers if isinstance(layers, list) else [layers])

    @cached_property
    def _listed_targets(self) -> frozenset[str]:
        return frozenset(self.names("target_modules"))

    def _matching(self, field: str, module: str) -> Sequence[str]:
        """The patterns of a field that match, in file order; of `layers_pattern` the numbers."""
        known = self if module in self._modules else self.about([module])
        return known._matches[field].get(module, ())

    @cached_property
    def _modules(self) -> frozenset[str]:
        return frozenset(self.modules)

    @cached_property
    def _matches(self) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """By field and by module, what `_matching` returns."""
        found: dict[str, dict[str, list[str]]] = {
            field: {} for field in ("rank_pattern", "alpha_pattern", *_NAME_FIELDS)
        }
        for field in ("target_modules", "exclude_modules"):
            if isinstance(self.fields.get(field), list):
                found[field] = named(self.names(field), self.modules, f"{self.where}: {field}")
        for pattern, hits in matched(self._patterns, self.modules, self.where).items():
            of_field = found[pattern.field]
            for module, number in hits.items():
                what = pattern.text if number is None else number
                of_field.setdefault(module, []).append(what)
        return found

    @property
    def _patterns(self) -> list[Pattern]:
        """The regular expressions among the fields."""
        patterns = [
            Pattern(field, key, "end")
            for field, keys in (
                ("rank_pattern", self.rank_pattern),
                ("alpha_pattern", self.alpha_pattern),
            )
            for key in keys
        ]
        for field in ("target_modules", "exclude_modules"):
            text = self.text(field)
            if text is not None and not (
                field == "target_modules" and text.lower() == "all-linear"
            ):
                patterns.append(Pattern(field, text, "whole"))
        patterns += [
            Pattern("layers_pattern", name, "layer") for name in self.names("layers_pattern")
        ]
        patterns += [
            Pattern("modules_to_save", name, "inside") for name in self.names("modules_to_save")
        ]
        return patterns

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
        FormatError: a field that decides the scaling is missing or of the wrong type, or one that
            names modules is.
        UnsupportedError: the adapter is of another type than LORA.
    """
    peft_type = fields.get("peft_type")
    if peft_type != "LORA":
        raise UnsupportedError(f"{where}: {_refusal_of_type(peft_type)}")
    for name in _NAME_FIELDS:
        _check_names(fields, name, where)
    _check_layers(fields, where)
    for name, kind, what in (("enable_lora", list, "a list"), ("use_bdlora", dict, "an object")):
        if (value := fields.get(name)) and not isinstance(value, kind):
            raise FormatError(f"{where}: {name} must be {what}, is {value!r:.40}")
    return PeftConfig(
        where=where,
        fields=fields,
        rank=_integer(fields, "r", where),
        alpha=_number(fields, "lora_alpha", where),
        rank_pattern=_numbers(fields, "rank_pattern", int, where),
        alpha_pattern=_numbers(fields, "alpha_pattern", float, where),
    )


def head_modules(task_type: object) -> tuple[str, ...]:
    """What PEFT adds to `modules_to_save` by itself, for every adapter of such a task.

    Its versions of 2023 and 2024 saved the list as it was before.
    """
    return _HEAD_MODULES.get(task_type, ()) if isinstance(task_type, str) else ()


def _refusal_of_type(peft_type: object) -> str:
    if not isinstance(peft_type, str):
        return "the config has no peft_type"
    if peft_type in _NOT_WEIGHTS:
        return f"peft_type {peft_type} {_NOT_WEIGHTS[peft_type]}; it is no update of weights"
    return f"peft_type {peft_type!r:.40} is not supported yet (LORA is)"


def _check_names(fields: Mapping[str, Any], name: str, where: str) -> None:
    value = fields.get(name)
    items = value if isinstance(value, list) else ["" if value is None else value]
    if not all(isinstance(item, str) for item in items):
        raise FormatError(f"{where}: {name} must be a name or a list of names, is {value!r:.40}")


def _check_layers(fields: Mapping[str, Any], where: str) -> None:
    value = fields.get("layers_to_transform")
    items = value if isinstance(value, list) else [0 if value is None else value]
    if not all(type(item) is int for item in items):
        raise FormatError(
            f"{where}: layers_to_transform must be a number or a list of numbers, is {value!r:.40}"
        )


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
