"""Writes adapters under ComfyUI's names of modules.

ComfyUI reads neither metadata nor a config, so that a scaling other than 1 is always a tensor.
"""

from loratools.adapter import Adapter
from loratools.formats._modules.codecs import all_codecs
from loratools.formats._modules.spelling import Split
from loratools.formats._modules.writing import SingleFile
from loratools.formats.comfyui.keys import NAMES, is_name, spelled
from loratools.io.bundle import Bundle


def encode(adapter: Adapter) -> Bundle:
    """The file of an adapter; its tensors have the names and the order that they were read with.

    Tensors that are new, and those of adapters from other formats, have kohya's names of parts.

    Raises:
        UnsupportedError: the format cannot store something in the adapter.
    """
    read = spelled(adapter.filed.order if adapter.filed is not None else (), all_codecs())

    def key(module: str, part: str) -> str:
        return read.get(Split(module, part), f"{module}.{part}")

    return SingleFile("a ComfyUI file", is_name, NAMES, key, needs_alpha=False).of(adapter)
