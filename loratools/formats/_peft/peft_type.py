"""The description of a `peft_type`: everything that its kinds of update have in common."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, final

#: The default of mappings below. It is read-only, because all types share it.
_NONE: Mapping[str, Any] = MappingProxyType({})
#: The fields that `inspect` shows of the configs of all types.
SETTINGS = (
    "bias", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "target_modules",
    "exclude_modules", "layers_to_transform", "modules_to_save", "trainable_token_indices",
)  # fmt: skip


#: Fields that only some types have, but that mean the same in all of them.
OPTIONAL_FIELDS = (
    "bias", "fan_in_fan_out", "trainable_token_indices", "ensure_weight_tying", "exclude_modules",
    "layers_to_transform", "layers_pattern",
)  # fmt: skip


@final
class ScalingFields(NamedTuple):
    """The names of the fields that give every module its rank and its alpha.

    `sqrt_rank` is the flag that makes PEFT divide alpha by the square root of the rank; None for a
    type without it. The fields for modules with numbers of their own are `rank_pattern` and
    `alpha_pattern` in every type.
    """

    rank: str = "r"
    alpha: str = "alpha"
    sqrt_rank: str | None = None


@final
class PeftType(NamedTuple):
    """One of PEFT's methods, and the fields of its config.

    Attributes:
        name: the `peft_type` of its configs.
        title: the name of the method for people: `LoRA`.
        scaling: the fields of rank and alpha; None for a method without an alpha.
        fields: the fields in `OPTIONAL_FIELDS` that its configs have.
        settings: the fields of its config that `inspect` shows.
        shared: the names of tensors that belong to the whole model and no module: `vera_A` of VeRA.
        flags: fields of which PEFT asks only whether they are truthy, besides those that announce a
            part.
        typed: fields that must be a list or an object if they are not empty.
        defaults: fields of a new config, in addition to those that all types have.
        unpacked: fields that describe a packing of the tensors. Tensors are written unpacked, so
            these fields are emptied.
        inert: strings in the keys of tensors without effect, each with the reason.
        refused: fields that, if they are set, give the tensors another meaning than an update of a
            weight, each with the reason.
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
