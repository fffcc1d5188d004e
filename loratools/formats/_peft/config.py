"""PEFT's `adapter_config.json`: the fields that decide what stored tensors mean."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, final

from loratools.deltas.lora import Origin, Rule, Scaling
from loratools.formats._fields import (
    check_layers,
    check_names,
    check_type,
    integer,
    number,
    numbers,
)
from loratools.formats._peft.matches import (
    NAME_FIELDS,
    Matches,
    find_matches,
    is_all_linear,
    names_in,
)
from loratools.formats._peft.peft_type import PeftType
from loratools.io.bundle import ConfigName

#: The heads that PEFT trains for a task, whatever `modules_to_save` lists.
_HEAD_MODULES = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}

#: Finds the number of a module's layer as PEFT does where `layers_pattern` is empty.
_FIRST_NUMBER = re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")
#: A longer number is that of no layer. The limit is needed because `int` refuses thousands of
#: digits.
_LAYER_DIGITS = 20


@final
@dataclass(frozen=True)
class Unstated:
    """What stands in for the numbers of a config that is missing.

    `ranks` are those of the tensors, by module, and `stored` the scalings of modules that have an
    alpha of their own. `alpha` is the one that the user gives for the others; None if there is
    none, so that each module's rank is taken for it.
    """

    ranks: Mapping[str, int]
    alpha: float | None
    stored: Mapping[str, Scaling] = field(default_factory=dict)

    def scaling(self, module: str) -> Scaling:
        """The scaling of `module`."""
        if module in self.stored:
            return self.stored[module]
        rank = self.ranks[module]
        alpha = rank if self.alpha is None else self.alpha
        origin: Origin = "assumed" if self.alpha is None else "option"
        return Scaling(alpha, rank, "rank", origin)


@final
@dataclass(frozen=True)
class PeftConfig:
    """A parsed config; `fields` has all fields as they were read.

    Rank and alpha are 1 where the type has none, so that stored tensors are applied unscaled.
    Where there is no config, `unstated` has the numbers in its place, and `fields` has none.
    `where` is the name of the config in messages, and `origin` says where the fields were found.
    Patterns are matched with all `modules` at once, because that may need a process of its own.
    Questions about other modules are answered too, but each starts the matching again.
    """

    where: ConfigName
    type: PeftType
    fields: Mapping[str, Any]
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    modules: tuple[str, ...] = ()
    unstated: Unstated | None = None
    origin: Origin = "config"

    def about(self, modules: Sequence[str]) -> "PeftConfig":
        """The same config, with its patterns matched against these modules.

        Raises:
            FormatError: a pattern is not a regular expression, or cannot be matched within the
                limits.
        """
        config = replace(self, modules=tuple(modules))
        # Matches them now, so that a bad pattern raises here and not in the middle of a verb.
        assert config._matches.keys() >= {"rank_pattern", "alpha_pattern"}
        return config

    def flag(self, name: str) -> bool:
        """Whether a field is truthy, as PEFT takes flags; False where it is absent."""
        return bool(self.fields.get(name))

    def text(self, name: str) -> str | None:
        """The text in a field; None where it is absent, empty or no text."""
        value = self.fields.get(name)
        return value if isinstance(value, str) and value else None

    @property
    def version(self) -> tuple[int, ...]:
        """The version of the PEFT that wrote the config; empty if none is stored: before 0.18."""
        return tuple(int(n) for n in re.findall(r"\d+", self.text("peft_version") or "")[:3])

    def names(self, name: str) -> tuple[str, ...]:
        """The names in a field, which is a name or a list of names; empty where it is absent."""
        return names_in(self.fields, name)

    def saved_modules(self) -> tuple[str, ...]:
        """The modules that PEFT saves whole: `modules_to_save`, and the heads of the task."""
        listed = self.names("modules_to_save")
        return tuple(dict.fromkeys((*listed, *head_modules(self.fields.get("task_type")))))

    def expected_rank(self, module: str) -> int:
        """The rank that the config gives to `module`: that of the first pattern that matches."""
        if self.unstated is not None:
            return self.unstated.ranks[module]
        if not self.rank_pattern:
            return self.rank
        keys = self._matching("rank_pattern", module)
        # Where no pattern matches, PEFT looks up the module's own name among them, literally.
        return self.rank_pattern[keys[0]] if keys else self.rank_pattern.get(module, self.rank)

    def scaling(self, module: str) -> Scaling:
        """The scaling of `module`; like PEFT, matches rank and alpha patterns independently."""
        if self.unstated is not None:
            return self.unstated.scaling(module)
        if not (self.rank_pattern or self.alpha_pattern):
            return self._common_scaling
        keys = self._matching("alpha_pattern", module)
        alpha = self.alpha_pattern[keys[0]] if keys else self.alpha_pattern.get(module)
        return replace(
            self._common_scaling,
            alpha=self.alpha if alpha is None else alpha,
            rank=self.expected_rank(module),
            origin=self.origin if alpha is None else "alpha_pattern",
        )

    @cached_property
    def _common_scaling(self) -> Scaling:
        """The scaling of the modules that no pattern matches."""
        flag = self.type.scaling and self.type.scaling.sqrt_rank
        rule: Rule = "sqrt_rank" if flag and self.flag(flag) else "rank"
        return Scaling(self.alpha, self.rank, rule, self.origin)

    def matching_patterns(self, field: str, module: str) -> tuple[tuple[str, float], ...]:
        """The entries of `rank_pattern` or `alpha_pattern` that match a module, in file order."""
        values = self.rank_pattern if field == "rank_pattern" else self.alpha_pattern
        return tuple((key, values[key]) for key in self._matching(field, module))

    def is_target(self, module: str) -> bool | None:
        """Whether `target_modules` means `module`; None where the config alone does not decide."""
        targets = self.fields.get("target_modules")
        if targets is None or is_all_linear(targets):
            return None
        if self._matching("target_modules", module):
            return True
        # With this flag, if one of a tied embedding and head is a target, PEFT also wraps the other
        # one, and does not list it.
        return None if isinstance(targets, list) and self.flag("ensure_weight_tying") else False

    def unused_targets(self) -> tuple[str, ...]:
        """The names in `target_modules` that mean none of `modules`."""
        targets = self.fields.get("target_modules")
        used = {name for names in self._matches["target_modules"].values() for name in names}
        listed = targets if isinstance(targets, list) else ()
        return tuple(name for name in dict.fromkeys(listed) if name not in used)

    @property
    def is_narrowed(self) -> bool:
        """Whether a field makes PEFT skip some of the modules that `target_modules` means."""
        narrowing = ("exclude_modules", "layers_to_transform", "layers_pattern")
        return any(map(self.fields.get, narrowing))

    def untargeted(self, modules: Iterable[str]) -> list[str]:
        """The modules that `target_modules` excludes by not naming them."""
        hits = self._matches["target_modules"]
        return [m for m in modules if m not in hits and self.is_target(m) is False]

    @property
    def may_leave_out(self) -> bool:
        """Whether `leaves_out` can be true for any module."""
        return bool(self.fields.get("exclude_modules")) or self._layers is not None

    def leaves_out(self, module: str) -> bool:
        """Whether PEFT skips a module that `target_modules` names.

        It does so if `exclude_modules` matches it, or if it is in none of the layers in
        `layers_to_transform`. A module that is listed by its whole path may be in any layer.
        """
        if self._matching("exclude_modules", module):
            return True
        if self._layers is None or module in self._listed_targets:
            return False
        return self._layer(module) not in self._layers

    def saves_whole(self, module: str) -> str | None:
        """The name in `modules_to_save` for which PEFT saves a module whole; None if there is none.

        PEFT does not update such a module.
        """
        found = self._matching("modules_to_save", module)
        return found[0] if found else None

    def _layer(self, module: str) -> int | None:
        """The number of a module's layer by PEFT's rule; None where it has none.

        It is the first number after one of the names in `layers_pattern`, or, without these, the
        first number after any name.
        """
        if self.fields.get("layers_pattern"):
            digits = (*self._matching("layers_pattern", module), None)[0]
        else:
            found = _FIRST_NUMBER.match(module)
            digits = found["idx"] if found else None
        return int(digits) if digits is not None and len(digits) <= _LAYER_DIGITS else None

    @cached_property
    def _layers(self) -> frozenset[int] | None:
        """The layers that `layers_to_transform` restricts a list of targets to; None for all."""
        layers = self.fields.get("layers_to_transform")
        if layers is None or layers == [] or isinstance(self.fields.get("target_modules"), str):
            return None
        return frozenset(layers if isinstance(layers, list) else [layers])

    @cached_property
    def _listed_targets(self) -> frozenset[str]:
        return frozenset(self.names("target_modules"))

    def _matching(self, field: str, module: str) -> Sequence[str]:
        """The patterns of a field that match a module, in file order.

        For `layers_pattern` these are the numbers of the layer instead.
        """
        known = self if module in self._modules else self.about([module])
        return known._matches[field].get(module, ())

    @cached_property
    def _modules(self) -> frozenset[str]:
        return frozenset(self.modules)

    @cached_property
    def _matches(self) -> Matches:
        numbers = {"rank_pattern": self.rank_pattern, "alpha_pattern": self.alpha_pattern}
        with self.where.errors():
            return find_matches({**self.fields, **numbers}, self.modules)


def parse_config(fields: Mapping[str, Any], where: ConfigName, type: PeftType) -> PeftConfig:
    """Parse the config of an adapter of this type; errors begin with the name of the config.

    Raises:
        FormatError: a field of the scaling is missing or of the wrong type, or a field that names
            modules has the wrong type.
    """
    with where.errors():
        for name in NAME_FIELDS:
            check_names(fields, name)
        check_layers(fields)
        for name, kind in type.typed.items():
            check_type(fields, name, kind)
        scaling = type.scaling
        if scaling is None:
            return PeftConfig(where, type, fields, 1, 1.0, {}, {})
        return PeftConfig(
            where=where,
            type=type,
            fields=fields,
            rank=integer(fields, scaling.rank),
            alpha=number(fields, scaling.alpha),
            rank_pattern=numbers(fields, "rank_pattern", int),
            alpha_pattern=numbers(fields, "alpha_pattern", float),
        )


def head_modules(task_type: object) -> tuple[str, ...]:
    """The names of heads that PEFT adds to `modules_to_save` for every adapter of a task.

    Its versions of 2023 and 2024 saved the list without them.
    """
    return _HEAD_MODULES.get(task_type, ()) if isinstance(task_type, str) else ()
