"""Writes adapters in the format of kohya's sd-scripts, with metadata that agrees with them."""

from loratools.adapter import Adapter
from loratools.formats._modules.writing import SingleFile
from loratools.formats.kohya.keys import is_name
from loratools.io.bundle import Bundle

_FILE = SingleFile("a kohya file", is_name, "the flattened name of a module", "{}.{}".format)


def encode(adapter: Adapter) -> Bundle:
    """The file of an adapter; its tensors have the order of the file that was read, if any.

    Raises:
        UnsupportedError: the format cannot store something in the adapter.
    """
    return _FILE.of(adapter)
