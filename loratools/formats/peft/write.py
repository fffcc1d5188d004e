"""Writes adapters in PEFT's format, with a config that agrees with the tensors."""

from loratools.adapter import Adapter
from loratools.formats._peft.keys import AROUND, PREFIX
from loratools.formats._peft.stored import stored
from loratools.io.bundle import Bundle
from loratools.io.dtypes import nbytes


def encode(adapter: Adapter) -> Bundle:
    """The files of an adapter, with keys in PEFT's usual form.

    Raises:
        UnsupportedError: PEFT's format cannot store something in the adapter.
    """
    found = stored(adapter)
    tensors = {PREFIX + name: source for name, source in found.tensors.items()}
    tensors |= {AROUND + name: source for name, source in found.shared.items()}
    return Bundle(
        where=adapter.where,
        tensors=tensors,
        metadata=(adapter.filed.metadata if adapter.filed else None) or {"format": "pt"},
        config=found.config,
        companions=adapter.companions,
        nbytes=sum(nbytes(source.dtype, source.shape) for source in tensors.values()),
    )
