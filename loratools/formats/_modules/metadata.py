"""The metadata of a kohya file: its origin, and the ranks and alphas that it states."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, final

from loratools.errors import FormatError, listing
from loratools.io.json import json_text, parse_json
from loratools.io.scalar import rounded
from loratools.parts import Note, Provenance

_ARGUMENTS = "ss_network_args"
#: What tools write for a rank or an alpha that differs between modules.
_MIXED = "Dynamic"
_SETTINGS = (
    "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args",
    "ss_base_model_version", "ss_output_name", "modelspec.architecture", "modelspec.title",
    "modelspec.prediction_type",
)  # fmt: skip


@final
class Size(NamedTuple):
    """The rank and the alpha of a module, the dtype of its alpha, and whether it has a kernel.

    The dtype is "F64" where no tensor stores the alpha.
    """

    rank: int
    alpha: float
    alpha_dtype: str
    has_kernel: bool


def has_kernel(shape: tuple[int, ...]) -> bool:
    """Whether a weight is a convolution larger than 1x1.

    sd-scripts have separate settings for those: `conv_dim` and `conv_alpha`.
    """
    return any(size > 1 for size in shape[2:])


def provenance(metadata: Mapping[str, str]) -> Provenance:
    """The base and the trainer that the metadata names."""
    # After the architecture stands the kind of file: «stable-diffusion-xl-v1-base/lora».
    architecture = metadata.get("modelspec.architecture", "").partition("/")[0]
    commit = metadata.get("ss_sd_scripts_commit_hash", "")
    is_sd_scripts = "ss_network_module" in metadata or commit
    trainer = f"sd-scripts {commit[:8]}".rstrip() if is_sd_scripts else None
    return Provenance(
        base=metadata.get("ss_sd_model_name") or None,
        family=metadata.get("ss_base_model_version") or architecture or None,
        trainer=trainer,
        base_hash=metadata.get("ss_new_sd_model_hash") or None,
    )


def settings(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """The entries of the metadata that `inspect` shows."""
    return {name: metadata[name] for name in _SETTINGS if name in metadata}


def disagreements(metadata: Mapping[str, str], sizes: Iterable[Size]) -> Iterator[Note]:
    """Notes on each rank or alpha in the metadata that is not what the tensors have.

    The tensors count. Their sizes are looked at only where the metadata states a number.
    """
    arguments = _arguments(metadata)
    stated = [(name, metadata.get(f"ss_{name}")) for name in ("network_dim", "network_alpha")]
    stated += [(name, arguments.get(name)) for name in ("conv_dim", "conv_alpha")]
    numbers = [(name, text, n) for name, text in stated if (n := _number(text)) is not None]
    different = [*dict.fromkeys(sizes)] if numbers else []
    for name, text, number in numbers:
        wanted = _values(name, arguments, different)
        if all(_is_equal(number, value, dtype) for value, dtype in wanted):
            continue
        where = f"ss_{name}" if name.startswith("network") else f"{name} in {_ARGUMENTS}"
        found = listing(dict.fromkeys(_plain(value) for value, _ in wanted))
        message = f"{where} says {text}, the tensors have {found}, which counts"
        yield Note("info", message, trap="stale-metadata")


def stated_alphas(metadata: Mapping[str, str]) -> list[float]:
    """The alphas that the metadata states as numbers: of all modules, and of convolutions."""
    texts = [metadata.get("ss_network_alpha"), _arguments(metadata).get("conv_alpha")]
    return [number for text in texts if (number := _number(text)) is not None]


def stated_size(metadata: Mapping[str, str]) -> tuple[int, float] | None:
    """The rank and the alpha that the metadata states for the whole file, if both are numbers."""
    rank, alpha = (_number(metadata.get(f"ss_network_{name}")) for name in ("dim", "alpha"))
    if rank is None or alpha is None or not rank.is_integer() or rank < 1:
        return None
    return int(rank), alpha


def corrected(metadata: Mapping[str, str], sizes: Sequence[Size]) -> dict[str, str]:
    """The metadata with the ranks and alphas of the tensors.

    Metadata without an `ss_` entry is not that of a training, and is returned as it is.
    """
    result = dict(metadata)
    if not any(name.startswith("ss_") for name in metadata):
        return result
    arguments = dict(_arguments(metadata))
    for name in ("network_dim", "network_alpha"):
        text = _true(metadata.get(f"ss_{name}"), _values(name, arguments, sizes))
        if text is not None:
            result[f"ss_{name}"] = text
    before = dict(arguments)
    for name in ("conv_dim", "conv_alpha"):
        text = _true(before.get(name), _values(name, before, sizes))
        if name in before and text is not None and text != str(before[name]):
            was_text = isinstance(before[name], str) or text == _MIXED
            arguments[name] = text if was_text else parse_json(text.encode(), _ARGUMENTS)
    if arguments != before:
        result[_ARGUMENTS] = json_text(arguments)
    return result


def _arguments(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """The trainer's additional arguments in `ss_network_args`; none where it is no JSON object."""
    try:
        arguments = parse_json(metadata.get(_ARGUMENTS, "{}").encode(), _ARGUMENTS)
    except FormatError:
        return {}
    return arguments if isinstance(arguments, dict) else {}


def _values(
    name: str, arguments: Mapping[str, Any], sizes: Sequence[Size]
) -> Sequence[tuple[float, str]]:
    """The ranks or alphas of the modules that an entry is about, each with its dtype.

    Convolutions with a kernel are separate from other modules only where there are `conv_` entries.
    """
    kind, _, what = name.partition("_")
    if "conv_dim" in arguments or "conv_alpha" in arguments:
        sizes = [size for size in sizes if size.has_kernel == (kind == "conv")]
    return [(s.rank, "F64") if what == "dim" else (s.alpha, s.alpha_dtype) for s in sizes]


def _true(text: object, wanted: Sequence[tuple[float, str]]) -> str | None:
    """The true text of an entry: `text` itself where it is true; None where no module is meant."""
    if not wanted:
        return None
    values = {value for value, _ in wanted}
    if len(values) > 1:
        return _MIXED
    number = _number(text)
    if number is not None and all(_is_equal(number, value, dtype) for value, dtype in wanted):
        return str(text)
    return _plain(wanted[0][0])


def _is_equal(number: float, value: float, dtype: str) -> bool:
    """Whether a number in the metadata is the value of a tensor of this dtype."""
    # An alpha of 0.1 is 0.0999755859375 in a float16 tensor, so the stated number is rounded alike.
    return number == value or rounded(number, dtype) == value


def _number(text: object) -> float | None:
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        return None
    try:
        return float(text)
    except (ValueError, OverflowError):
        return None


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else repr(float(number))
