"""Writes adapters in the format of kohya's sd-scripts, with metadata that agrees with them."""

from collections.abc import Iterator
from dataclasses import replace

from loratools.adapter import Adapter
from loratools.formats._modules.codecs import all_codecs
from loratools.formats._modules.spelling import Split
from loratools.formats._modules.writing import SingleFile
from loratools.formats.kohya.keys import is_flat, is_name, spelled
from loratools.io.bundle import Bundle
from loratools.parts import Filed, Provenance

_NAMES = "the flattened name of a module"
#: Entries of which `corrected` makes the rank and the alpha of the tensors.
_SIZES = {"ss_network_dim": "", "ss_network_alpha": ""}


def encode(adapter: Adapter) -> Bundle:
    """The file of an adapter; its tensors have the names and the order that they were read with.

    Raises:
        UnsupportedError: the format cannot store something in the adapter.
    """
    filed = adapter.filed or Filed("kohya")
    read = spelled(filed.order, all_codecs())

    def key(module: str, part: str) -> str:
        return read.get(Split(module, part), f"{module}.{part}")

    if read:  # a file whose names have dots is written again with them
        return SingleFile("a kohya file", is_name, _NAMES, key).of(adapter)
    metadata = {**_SIZES, **dict(_base(adapter.provenance)), **filed.metadata}
    adapter = replace(adapter, filed=replace(filed, metadata=metadata))
    return SingleFile("a kohya file", is_flat, _NAMES, key).of(adapter)


def _base(provenance: Provenance) -> Iterator[tuple[str, str]]:
    """The entries that name the base, by what the files of an adapter stated of it.

    Which program trained the adapter, and for which architecture, is left out: the words that
    readers expect there are those of kohya's own trainers.
    """
    if provenance.base is not None:
        yield "ss_sd_model_name", provenance.base
    if provenance.base_hash is not None:
        yield "ss_new_sd_model_hash", provenance.base_hash
