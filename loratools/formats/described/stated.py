"""What is said of an adapter's keys and of its strength: by the user, or in the file's metadata.

A file that loratools writes with described keys has the description in its metadata, so that it
is read again without one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from loratools.deltas import Delta
from loratools.deltas.lora import Scaling
from loratools.errors import FormatError, OptionError
from loratools.formats.described.description import SCALE, Description, parse, parsed_pairs

#: The entry of the metadata with the description.
KEYS = "loratools.keys"
#: The entries beside it, and the options, that say how strong the updates are.
_STRENGTHS = (SCALE, "alpha")
_AUTO = "auto"


@final
@dataclass(frozen=True)
class Stated:
    """The description of the keys; and the scale or the alpha of all updates, if that is stated."""

    description: Description
    scale: float | None
    alpha: float | None

    def scaling(self, rank: int) -> Scaling:
        """The scaling of an update of this rank whose alpha is not stored; 1 if nothing is said."""
        if self.scale is not None:
            return Scaling(alpha=self.scale, rank=rank, rule="direct", origin="option")
        if self.alpha is not None:
            return Scaling(alpha=self.alpha, rank=rank, rule="rank", origin="option")
        return Scaling(alpha=rank, rank=rank, rule="rank", origin="assumed")

    def scaled(self, delta: Delta) -> Delta:
        """An update as it was decoded, with the stated scale or alpha if the file has no alpha.

        Raises:
            OptionError: a scale is stated, and the file has an alpha.
        """
        scaling = delta.scaling
        if scaling is None:
            return delta
        if scaling.origin != "assumed":
            if self.scale is not None:
                raise OptionError(
                    "scale: the alpha in the file says it", hint="leave out one of the two"
                )
            return delta
        return delta.with_scaling(self.scaling(scaling.rank))

    @property
    def entries(self) -> Mapping[str, str]:
        """The entries of the metadata that say all this."""
        numbers = zip(_STRENGTHS, (self.scale, self.alpha), strict=True)
        stated = {
            f"loratools.{name}": repr(number) for name, number in numbers if number is not None
        }
        return {KEYS: str(self.description), **stated}


def stated(metadata: Mapping[str, str], options: Mapping[str, str]) -> Stated:
    """What the options say, and the metadata where they say nothing of the keys, or the strength.

    A scale beside the patterns counts where no option says the strength.

    Raises:
        OptionError: an option says both a scale and an alpha, or one of 0.
        FormatError: the metadata says something else than loratools writes.
    """
    given = {name: text for name in _STRENGTHS if (text := options.get(name, _AUTO)) != _AUTO}
    description = parse(options["keys"]) if "keys" in options else None
    if not given and description is not None and description.scale is not None:
        given = {SCALE: description.scale}
    strength = _strength(given)
    filed = {n: metadata[f"loratools.{n}"] for n in _STRENGTHS if f"loratools.{n}" in metadata}
    try:
        description = description or parsed_pairs(metadata[KEYS])
        return Stated(description, *(strength if given else _strength(filed)))
    except (OptionError, ValueError) as error:
        raise FormatError(f"{KEYS} in the metadata: {error}") from error


def without_strength(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata without a scale or an alpha of all updates."""
    strengths = {f"loratools.{name}" for name in _STRENGTHS}
    return {name: text for name, text in metadata.items() if name not in strengths}


def _strength(said: Mapping[str, str]) -> tuple[float | None, float | None]:
    """The scale and the alpha, of which at most one is said.

    Raises:
        OptionError: both are said, or one is 0.
    """
    scale, alpha = (float(said[name]) if name in said else None for name in _STRENGTHS)
    if scale is not None and alpha is not None:
        raise OptionError("scale, alpha: both say how strong the updates are", hint="leave out one")
    if 0 in (scale, alpha):
        raise OptionError("scale, alpha: a strength of 0 leaves nothing of the adapter")
    return scale, alpha
