"""MLX's `adapter_config.json`: how the adapter was trained, and its one scale."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from loratools.deltas.lora import Origin, Scaling
from loratools.errors import FormatError, UnsupportedError, errors_of
from loratools.formats._fields import check_type, integer, number
from loratools.io.json import in_json
from loratools.parts import Note
from loratools.typed import of_format

FineTuneType = Literal["lora", "dora", "full"]
#: The scale of mlx-lm where nothing else is set. The first version of MLX's example had 2.
_DEFAULT_SCALE = 20.0


@final
@dataclass(frozen=True)
class MlxConfig:
    """A parsed config.

    Attributes:
        type: whether factors, factors and magnitudes, or whole weights were trained.
        scale: the factor of all updates, and `origin`, where it was found.
        keys: the names of the trained modules; None where the config does not restrict them.
        rank: the rank in the config, if it has one.
        notes: remarks on the config.
    """

    type: FineTuneType
    scale: float
    origin: Origin
    keys: tuple[str, ...] | None
    rank: int | None
    notes: tuple[Note, ...]

    def scaling(self, rank: int) -> Scaling:
        """The scaling of factors of this rank."""
        return Scaling(self.scale, rank, "direct", self.origin)

    def names(self, module: str) -> bool:
        """Whether `keys` name a module, by its name in its block or by its full name."""
        return self.keys is None or any(
            module == key or module.endswith(f".{key}") for key in self.keys
        )


def parse_config(fields: Mapping[str, Any], scale: str) -> MlxConfig:
    """Parse a config; one without fields is the absence of one.

    `scale` is the value of the option: `auto`, or a number.

    Raises:
        FormatError: a field has the wrong type.
        UnsupportedError: the adapter was trained in a way that is not known.
    """
    check_type(fields, "lora_parameters", dict)
    parameters = fields.get("lora_parameters") or {}
    with errors_of("lora_parameters"):
        rank = integer(parameters, "rank") if "rank" in parameters else None
        value, origin, notes = _scale(fields, parameters, scale)
        keys = _keys(parameters)
    return MlxConfig(
        type=_type(fields), scale=value, origin=origin, keys=keys, rank=rank, notes=notes
    )


def _type(fields: Mapping[str, Any]) -> FineTuneType:
    found = fields.get("fine_tune_type", "dora" if fields.get("use_dora") else "lora")
    if found not in ("lora", "dora", "full"):
        raise UnsupportedError(
            f"fine_tune_type is {found!r:.40}, and only lora, dora and full are known here"
        )
    return found  # type: ignore[no-any-return]


def _keys(parameters: Mapping[str, Any]) -> tuple[str, ...] | None:
    keys = parameters.get("keys")
    if keys is None:
        return None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise FormatError(f"keys must be a list of names, is {in_json(keys)}")
    return tuple(keys)


def _scale(
    fields: Mapping[str, Any], parameters: Mapping[str, Any], option: str
) -> tuple[float, Origin, tuple[Note, ...]]:
    """The scale, where it was found, and notes on it."""
    stated = number(parameters, "scale") if "scale" in parameters else None
    if option != "auto":
        notes = (Note("info", f"the scale is {option}, as asked"),) if stated is not None else ()
        return float(option), "option", notes
    if stated is None:
        lacking = "lora_parameters has no scale" if fields else "nothing says its scale"
        what = f"taken as {_DEFAULT_SCALE:g}, the default of mlx-lm (MLX's first example had 2)"
        return (
            _DEFAULT_SCALE,
            "assumed",
            (
                Note(
                    "refusal",
                    f"{lacking}: {what}; say it with {of_format('scale')}",
                    "missing-alpha",
                ),
            ),
        )
    return float(stated), "config", tuple(_alpha_notes(fields, parameters, float(stated)))


def _alpha_notes(
    fields: Mapping[str, Any], parameters: Mapping[str, Any], scale: float
) -> list[Note]:
    """Notes on an alpha beside the scale, which some versions of mlx-lm multiplied it with."""
    if parameters.get("alpha") is None or "rank" not in parameters:
        return []
    alpha = number(parameters, "alpha")
    product = scale * alpha / integer(parameters, "rank")
    if product == scale:
        return []
    if "num_layers" in fields:
        return [Note("info", f"lora_parameters has an alpha of {alpha:g}, which mlx-lm ignores")]
    # `lora_layers` is the older name of `num_layers`. alpha went earlier than it came, so that
    # the config does not show which of the two the training had.
    return [
        Note(
            "refusal",
            f"lora_parameters has a scale of {scale:g} and an alpha of {alpha:g}, and older mlx-lm "
            f"wrote it: its first versions applied scale * alpha / rank = {product:g}, later ones "
            f"the scale alone; say which with "
            f"{of_format('scale', f'{product:g}')} or {of_format('scale', f'{scale:g}')}",
        )
    ]
