"""Writes adapters as mlx-lm's strict loader wants them: one rank, one scale, one kind of update.

The loader makes the modules that the config names, all of one rank, and then takes each tensor of
the file for one of theirs. So smaller ranks are filled up with zeros, and scales that differ are
multiplied into `lora_b`.
"""

from loratools.adapter import Adapter
from loratools.deltas.dora import DoRA
from loratools.errors import UnsupportedError, about, listing, shorten
from loratools.formats.mlx.config import FineTuneType
from loratools.formats.mlx.config_write import Contents, config_of
from loratools.formats.mlx.modules import encoded, rank_of
from loratools.io.bundle import Bundle
from loratools.io.computed import cast
from loratools.io.dtypes import computed, nbytes
from loratools.io.source import Source


def encode(adapter: Adapter) -> Bundle:
    """The files of an adapter.

    Raises:
        UnsupportedError: MLX has no place for something in the adapter.
    """
    _refuse_others(adapter)
    scales = [s.value for update in adapter.updates.values() if (s := update.delta.scaling)]
    is_common = len(set(scales)) == 1
    rank = max((rank_of(update.delta) or 1 for update in adapter.updates.values()), default=1)
    tensors: dict[str, Source] = {}
    for target, update in adapter.updates.items():
        where = f"{adapter.where}: {shorten(target)}"
        scaling = update.delta.scaling
        factor = 1.0 if is_common or scaling is None else scaling.value
        with about(target):
            for part, source in encoded(where, target, update, rank=rank, factor=factor):
                tensors[f"{target.removesuffix('.weight')}.{part}"] = source
    tensors |= {target: replacement.source for target, replacement in adapter.replaced.items()}
    # MLX takes floats of 8 bits for integers, so they are stored in 16 bits, which hold them.
    tensors = {key: cast(source, computed(source.dtype)) for key, source in tensors.items()}
    modules = tuple(target.removesuffix(".weight") for target in adapter.updates)
    contents = Contents(_type(adapter), modules, rank, scales[0] if is_common else 1.0)
    return Bundle(
        where=adapter.where,
        tensors=tensors,
        metadata=(adapter.filed.metadata if adapter.filed else None) or {"format": "mlx"},
        config=config_of(adapter, contents),
        companions=adapter.companions,
        nbytes=sum(nbytes(source.dtype, source.shape) for source in tensors.values()),
    )


def _type(adapter: Adapter) -> FineTuneType:
    if not adapter.updates:
        return "full"
    is_dora = any(isinstance(update.delta, DoRA) for update in adapter.updates.values())
    return "dora" if is_dora else "lora"


def _refuse_others(adapter: Adapter) -> None:
    """Refuse what MLX has no place for beside updates, and updates of several kinds."""
    where = adapter.where
    for target in adapter.rows:
        raise UnsupportedError(
            f"{where}: {shorten(target)}: MLX has no place for single rows", tensor=target
        )
    if adapter.replaced and adapter.updates:
        raise UnsupportedError(
            f"{where}: {listing(adapter.replaced)}: MLX has no place for a whole tensor beside "
            f"updates"
        )
    for target in adapter.updates:
        if not target.endswith(".weight"):
            raise UnsupportedError(
                f"{where}: {shorten(target)}: not a module's weight", tensor=target
            )
    deltas = {target: update.delta for target, update in adapter.updates.items()}
    others = [target for target, delta in deltas.items() if not isinstance(delta, DoRA)]
    if _type(adapter) == "dora" and others:
        raise UnsupportedError(
            f"{where}: {listing(others)}: a {deltas[others[0]].kind} beside a DoRA, and MLX has "
            f"one kind of update in an adapter"
        )
