"""How a dialect spells the parts of a module: by the ends of keys, read from the right.

A module's name may have any form, dots and numbers included, so only the end of a key tells where
it stops. Parts have one name in the code, that of kohya's files: `lora_down.weight`, `alpha`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, final

from loratools.errors import FormatError, listing

_DOWN, _UP = "lora_down.weight", "lora_up.weight"
#: A part of its own, since PEFT's magnitude is that of the outputs whatever its shape.
PEFT_MAGNITUDE = "lora_magnitude_vector"
#: PEFT's names of parts with the name that an adapter had in memory: `lora_A.default.weight`.
_NAMED = re.compile(
    r"(?P<part>\.lora_(?:[AB]|magnitude_vector))\.(?!weight$|bias$)(?P<name>[^.]+)(?P<end>\.weight|\.bias)?$"
)


@final
class Split(NamedTuple):
    """A key as the name of a module and the name of its part."""

    module: str
    part: str


@final
@dataclass(frozen=True, eq=False)
class Spelling:
    """The ends of keys that a dialect reads, with the part that each of them means.

    An end begins with what separates it from the module's name, as a rule a dot. PEFT's may also
    have the name of the adapter in them.
    """

    parts: Mapping[str, str]

    # A key is split by the claims of several dialects and by the one that reads the file, and the
    # files of a folder mostly have the same keys. Spellings are few and live as long as Python.
    @lru_cache(maxsize=2**14)  # noqa: B019
    def split(self, key: str) -> Split | None:
        """The module and the part of a key, by the longest end that fits; None if none does."""
        if not key.endswith(self._ends):
            plain = without_adapter(key)
            return None if plain == key else self.split(plain)
        end = next(end for end in self._ends if key.endswith(end))
        return Split(key[: -len(end)], self.parts[end]) if len(key) > len(end) else None

    def __or__(self, other: "Spelling") -> "Spelling":
        """Both spellings."""
        return Spelling({**self.parts, **other.parts})

    @cached_property
    def _ends(self) -> tuple[str, ...]:
        return tuple(sorted(self.parts, key=len, reverse=True))


# Asked of a key once when its file is checked, and once when it is decoded.
@lru_cache(maxsize=2**14)
def without_adapter(key: str) -> str:
    """A key without the name that PEFT gave the adapter in memory, if it has one."""
    return _NAMED.sub(r"\g<part>\g<end>", key) if ".lora_" in key else key


def check_one_adapter(keys: Iterable[str], where: str) -> None:
    """Check that at most one name of an adapter is in the keys of a file.

    Raises:
        FormatError: there are several, of which each has modules of its own.
    """
    named = (_NAMED.search(key) for key in keys if without_adapter(key) != key)
    names = dict.fromkeys(match["name"] for match in named if match)
    if len(names) > 1:
        raise FormatError(
            f"{where}: holds several adapters ({listing(names)})", hint="save each by itself"
        )


def spelled_alike(parts: Iterable[str]) -> Spelling:
    """The spelling of a dialect that gives these parts the names that they have here."""
    return Spelling({f".{part}": part for part in parts})


#: PEFT's names.
PEFT = Spelling(
    {
        f".{stored}{end}": part
        for stored, part in (("lora_A", _DOWN), ("lora_B", _UP), (PEFT_MAGNITUDE, PEFT_MAGNITUDE))
        for end in ("", ".weight")
    }
)
#: Names of diffusers before it used PEFT: in attention processors, and in text encoders.
OLD_DIFFUSERS = Spelling(
    {
        f"{begin}.{end}.weight": part
        for begin in (".lora", "_lora", ".lora_linear_layer")
        for end, part in (("down", _DOWN), ("up", _UP))
    }
)
