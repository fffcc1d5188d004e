"""How a dialect spells the parts of a module: by the ends of keys, read from the right.

A module's name may have any form, dots and numbers included, so only the end of a key tells where
it stops. Parts have one name in the code, that of kohya's files: `lora_down.weight`, `alpha`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, final

_DOWN, _UP = "lora_down.weight", "lora_up.weight"
#: A part of its own, since PEFT's magnitude is that of the outputs whatever its shape.
PEFT_MAGNITUDE = "lora_magnitude_vector"


@final
class Split(NamedTuple):
    """A key as the name of a module and the name of its part."""

    module: str
    part: str


@final
@dataclass(frozen=True)
class Spelling:
    """The ends of keys that a dialect reads, with the part that each of them means.

    An end begins with what separates it from the module's name, as a rule a dot.
    """

    parts: Mapping[str, str]

    def split(self, key: str) -> Split | None:
        """The module and the part of a key, by the longest end that fits; None if none does."""
        if not key.endswith(self._ends):
            return None
        end = next(end for end in self._ends if key.endswith(end))
        return Split(key[: -len(end)], self.parts[end]) if len(key) > len(end) else None

    def __or__(self, other: "Spelling") -> "Spelling":
        """Both spellings."""
        return Spelling({**self.parts, **other.parts})

    @cached_property
    def _ends(self) -> tuple[str, ...]:
        return tuple(sorted(self.parts, key=len, reverse=True))


def spelled_alike(parts: Iterable[str]) -> Spelling:
    """The spelling of a dialect that gives these parts the names that they have here."""
    return Spelling({f".{part}": part for part in parts})


#: PEFT's names, also with the name that PEFT gives an adapter when it is given none.
PEFT = Spelling(
    {
        f".{stored}{name}{end}": part
        for stored, part in (("lora_A", _DOWN), ("lora_B", _UP))
        for name in ("", ".default")
        for end in ("", ".weight")
    }
    | {f".lora_magnitude_vector{end}": PEFT_MAGNITUDE for end in ("", ".weight", ".default.weight")}
)
#: Names of diffusers before it used PEFT: in attention processors, and in text encoders.
OLD_DIFFUSERS = Spelling(
    {
        f"{begin}.{end}.weight": part
        for begin in (".lora", "_lora", ".lora_linear_layer")
        for end, part in (("down", _DOWN), ("up", _UP))
    }
)
