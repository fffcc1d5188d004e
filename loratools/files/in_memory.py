"""An adapter made of tensors in memory, as it would be read from files with these tensors."""

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loratools.adapter import Adapter
from loratools.arguments import checked
from loratools.checks import check_finite
from loratools.errors import ArgumentError, OptionError, UnsupportedError, shorten
from loratools.files.bundles import read_bundle
from loratools.files.decoded import decoded
from loratools.files.finding import find_weights
from loratools.files.saving import save
from loratools.io.bundle import Bundle
from loratools.io.companions import Companion
from loratools.io.dtypes import from_torch_name
from loratools.io.folder import place_here
from loratools.io.given import plain_tensor
from loratools.io.source import Held, Source
from loratools.running.parallel import import_torch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Tensors = Mapping[str, Tensor | NDArray[np.generic]]
else:
    Tensors = object  # not checked as arguments are: the function itself says how keys look

#: How factors are named, for those who give them without such names.
_KEYS = "each factor has a key: q_proj.lora_B.weight for up, q_proj.lora_A.weight for down"


@checked
def adapter_from_tensors(
    tensors: Tensors,
    *,
    alpha: float | None = None,
    config: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    dialect_options: Mapping[str, str] | None = None,
    name: str = "tensors",
) -> Adapter:
    """The adapter whose file would have these tensors, in any format that loratools reads.

    Tensors are not copied, so they must not be changed as long as the adapter is used.

    Args:
        tensors: torch tensors or numpy arrays by the keys of the format: `….lora_A.weight` and
            `….lora_B.weight` are PEFT's, `….lora_down.weight` and `….lora_up.weight` kohya's.
        alpha: the alpha of all updates, where neither tensors nor config state one.
        config: the content of PEFT's `adapter_config.json`, or the `to_dict()` of its config.
        metadata: the metadata of the safetensors file, as kohya's trainer writes it.
        dialect_options: options of the format, as for `open_adapter`.
        name: what messages call the adapter.

    Example:
        >>> import loratools, torch
        >>> factors = {"q.lora_A.weight": torch.ones(4, 64), "q.lora_B.weight": torch.ones(64, 4)}
        >>> loratools.adapter_from_tensors(factors, alpha=8)["q"]
        <q.weight: LoRA, 64 × 64, rank 4, scaling 2>

    Raises:
        ArgumentError: a value is no tensor.
        OptionError: alpha is given although it is stated.
        FormatError, UnsupportedError: see `open_adapter`.
    """
    import_torch()
    if not isinstance(tensors, Mapping):
        raise ArgumentError(
            f"{name}: a mapping from keys to tensors is expected, not {type(tensors).__name__}",
            hint=_KEYS,
        )
    held = {key: _held(name, key, value) for key, value in tensors.items()}
    nbytes = sum(source.tensor.nbytes for source in held.values())
    fields = None if config is None else {key: _as_json(one) for key, one in config.items()}
    bundle = Bundle(name, held, dict(metadata or {}), fields, (), nbytes)
    options = dict(dialect_options or {})
    if alpha is not None:
        check_finite("alpha", alpha)
        options["alpha"] = repr(float(alpha))
    # Not `name` alone, which may be that of a file, where the adapter is saved.
    adapter = replace(decoded(bundle, options), saver=save, made_of=(f"{name} (in memory)",))
    return adapter if alpha is None else _with_alpha(adapter, float(alpha))


def in_memory(folder: Path, *, where: str, companions: tuple[Companion, ...]) -> Adapter:
    """The adapter in a folder, with all of its tensors in memory, and with other companions.

    `where` is its new name. The folder is needed no more.
    """
    place = place_here(folder)
    bundle = read_bundle(place.folder, find_weights(place.folder), where)
    tensors: dict[str, Source] = {
        key: Held(key, source.read(), source.dtype) for key, source in bundle.tensors.items()
    }
    bundle = replace(bundle, tensors=tensors, companions=companions, config_file=None)
    return replace(decoded(bundle), saver=save)


def _with_alpha(adapter: Adapter, alpha: float) -> Adapter:
    """The adapter with this alpha where its files would state none, and without notes on that.

    Raises:
        OptionError: an alpha is stated.
    """
    stated = [origin for origin in adapter.alpha_from if origin not in ("option", "assumed")]
    if stated:
        raise OptionError(
            f"{adapter.where}: its alpha is stated ({', '.join(stated)})", hint="leave alpha out"
        )
    updates = {}
    for target, update in adapter.updates.items():
        delta = update.delta
        if delta.scaling is not None:
            delta = delta.with_scaling(replace(delta.scaling, alpha=alpha, origin="option"))
        updates[target] = replace(update, delta=delta)
    notes = tuple(note for note in adapter.notes if note.trap != "missing-alpha")
    return replace(adapter, updates=updates, notes=notes)


def _instead_of(value: object) -> str | None:
    """What to give in place of a value that is no tensor."""
    if isinstance(value, Real):
        return f"give torch.tensor({value})"
    return _KEYS if isinstance(value, tuple | list | Mapping) else None


def _as_json(value: object) -> object:
    """A value of a config as its file would have it: PEFT's own objects hold sets and enums."""
    if isinstance(value, Enum):
        return _as_json(value.value)
    if isinstance(value, Mapping):
        return {str(_as_json(key)): _as_json(one) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(_as_json, value), key=str)
    return [_as_json(one) for one in value] if isinstance(value, tuple | list) else value


def _held(name: str, key: object, value: object) -> Held:
    import numpy as np
    import torch

    if not isinstance(key, str):
        raise OptionError(f"{name}: the key of a tensor is text, not {key!r:.60}")
    where = f"{name}: {shorten(key)}"
    if not isinstance(value, torch.Tensor | np.ndarray):
        what = f"{where}: a tensor is expected, not {type(value).__name__}"
        raise ArgumentError(what, hint=_instead_of(value))
    tensor = plain_tensor(where, value)
    try:
        dtype = from_torch_name(str(tensor.dtype).removeprefix("torch."))
    except KeyError:
        raise UnsupportedError(f"{where}: {tensor.dtype}, which safetensors lacks") from None
    return Held(key, tensor, dtype)
