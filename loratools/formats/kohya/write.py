"""Writes adapters in the format of kohya's sd-scripts, with metadata that agrees with them."""

from loratools.adapter import Adapter
from loratools.formats._modules.writing import SingleFile
from loratools.formats.kohya.keys import is_flat, is_name
from loratools.io.bundle import Bundle

_NAMES, _KEY = "the flattened name of a module", "{}.{}".format
_FILE = SingleFile("a kohya file", is_flat, _NAMES, _KEY)
#: A file whose names have dots is written again with them.
_AS_READ = SingleFile("a kohya file", is_name, _NAMES, _KEY)


def encode(adapter: Adapter) -> Bundle:
    """The file of an adapter; its tensors have the order of the file that was read, if any.

    Raises:
        UnsupportedError: the format cannot store something in the adapter.
    """
    return (_FILE if adapter.filed is None else _AS_READ).of(adapter)
