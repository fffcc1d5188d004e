"""Writes adapters under ComfyUI's names of modules.

ComfyUI reads neither metadata nor a config, so that a scaling other than 1 is always a tensor.
"""

from loratools.adapter import Adapter
from loratools.deltas.dora import DoRA
from loratools.errors import UnsupportedError, shorten
from loratools.formats._modules.codecs import all_codecs
from loratools.formats._modules.spelling import Split
from loratools.formats._modules.writing import SingleFile
from loratools.formats.comfyui.keys import NAMES, is_known, is_name, spelled
from loratools.io.bundle import Bundle


def encode(adapter: Adapter) -> Bundle:
    """The file of an adapter; its tensors have the names and the order that they were read with.

    Tensors that are new, and those of adapters from other formats, have kohya's names of parts.

    Raises:
        UnsupportedError: the format cannot store something in the adapter.
    """
    filed = adapter.filed
    read = spelled(filed.order if filed is not None else (), all_codecs())

    def key(module: str, part: str) -> str:
        return read.get(Split(module, part), f"{module}.{part}")

    if filed is None or not filed.order:
        _refuse_other_norms(adapter)
    # Other names than those of checkpoints mean something for some models only, and are only kept.
    may_name = is_name if filed is None else is_known
    return SingleFile("a ComfyUI file", may_name, NAMES, key, needs_alpha=False).of(adapter)


def _refuse_other_norms(adapter: Adapter) -> None:
    """Refuse a DoRA of another format that ComfyUI would apply otherwise.

    Where there is a magnitude for each output, it divides by the norms of W and not of W + dW.
    """
    for target, update in adapter.updates.items():
        delta = update.delta
        if isinstance(delta, DoRA) and delta.axis == "row":
            raise UnsupportedError(
                f"{adapter.where}: {shorten(target)}: a DoRA with a magnitude for each output, "
                f"which ComfyUI does not apply as it was trained",
                tensor=target,
            )
