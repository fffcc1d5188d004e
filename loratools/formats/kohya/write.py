"""Writes adapters in the format of kohya's sd-scripts, with metadata that agrees with them."""

from collections.abc import Iterator
from dataclasses import replace

from loratools.adapter import Adapter, Filed, Provenance
from loratools.formats._modules.writing import SingleFile
from loratools.formats.kohya.keys import is_flat, is_name
from loratools.io.bundle import Bundle

_NAMES, _KEY = "the flattened name of a module", "{}.{}".format
_FILE = SingleFile("a kohya file", is_flat, _NAMES, _KEY)
#: A file whose names have dots is written again with them.
_AS_READ = SingleFile("a kohya file", is_name, _NAMES, _KEY)
#: Entries of which `corrected` makes the rank and the alpha of the tensors.
_SIZES = {"ss_network_dim": "", "ss_network_alpha": ""}


def encode(adapter: Adapter) -> Bundle:
    """The file of an adapter; its tensors have the order of the file that was read, if any.

    Raises:
        UnsupportedError: the format cannot store something in the adapter.
    """
    filed = adapter.filed or Filed("kohya")
    if filed.order:
        return _AS_READ.of(adapter)
    metadata = {**_SIZES, **dict(_base(adapter.provenance)), **filed.metadata}
    return _FILE.of(replace(adapter, filed=replace(filed, metadata=metadata)))


def _base(provenance: Provenance) -> Iterator[tuple[str, str]]:
    """The entries that name the base, by what the files of an adapter stated of it.

    Which program trained the adapter, and for which architecture, is left out: the words that
    readers expect there are those of kohya's own trainers.
    """
    if provenance.base is not None:
        yield "ss_sd_model_name", provenance.base
    if provenance.base_hash is not None:
        yield "ss_new_sd_model_hash", provenance.base_hash
