"""A `peft_type`: what all kinds that its configs announce have in common."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, final

#: No fields, shared by all that have none.
_NONE: Mapping[str, Any] = MappingProxyType({})
#: The fields that matter to people in the configs of all types.
SETTINGS = (
    "bias", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "target_modules",
    "exclude_modules", "layers_to_transform", "modules_to_save", "trainable_token_indices",
)  # fmt: skip


#: Fields that mean the same in every config that has them, and that not all types have.
OPTIONAL_FIELDS = (
    "bias", "fan_in_fan_out", "trainable_token_indices", "ensure_weight_tying", "exclude_modules",
    "layers_to_transform", "layers_pattern",
)  # fmt: skip


@final
class ScalingFields(NamedTuple):
    """The fields of a config that give every module its rank and its alpha.

    `rank_pattern` and `alpha_pattern`, for modules with a number of their own, are called the same
    in every type. `sqrt_rank` is the flag by which alpha is divided by the root of the rank.
    """

    rank: str = "r"
    alpha: str = "alpha"
    sqrt_rank: str | None = None


@final
class PeftType(NamedTuple):
    """One of PEFT's methods, and the fields of its config.

    Attributes:
        name: the `peft_type` of its configs.
        title: what people call it.
        scaling: the fields of rank and alpha; None where it has no alpha.
        fields: those of the optional fields that its configs have.
        settings: the fields of its config that matter to people, for them to see.
        shared: tensors of the whole model, which have no module: `vera_A` of VeRA.
        flags: fields of which PEFT asks only whether they are true.
        typed: fields that must be a list or an object, if they are there.
        defaults: what a new config begins with, beside what all types have.
        unpacked: fields that say how tensors were packed which are written in full.
        inert: what keys without effect have in them, and the reason.
        refused: fields that, when they are set, make the update another one than its tensors say,
            and the reason.
    """

    name: str
    title: str
    scaling: ScalingFields | None
    fields: tuple[str, ...] = OPTIONAL_FIELDS[-3:]
    settings: tuple[str, ...] = SETTINGS
    shared: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    typed: Mapping[str, type] = _NONE
    defaults: Mapping[str, Any] = _NONE
    unpacked: tuple[str, ...] = ()
    inert: Mapping[str, str] = _NONE
    refused: Mapping[str, str] = _NONE
