"""The name that an adapter had in PEFT's memory is still in the keys."""

import re
from collections.abc import Iterator
from itertools import chain

from loratools.adapter import Adapter, Note
from loratools.errors import shorten
from loratools.traps._trap import Change, Seen, Trap

#: Ends of keys that nearly all tensors have, and in which there is no such name.
_USUAL = tuple(f".lora_{part}.weight" for part in ("A", "B", "down", "up"))
_NAME = re.compile(
    r"\.(?:lora_(?:embedding_)?[A-Z]|lora_magnitude_vector|lora_diag|modules_to_save)"
    r"\.(?!weight$|bias$)([^.]+)(?=\.(?:weight|bias)$|$)"
)


class _AdapterName(Trap):
    what = "Keys contain the name that the adapter had in memory, as in `lora_A.default.weight`."
    readers = (
        "vLLM refuses them. PEFT loads them only under that very name, and under any other drops "
        "them without a word; ComfyUI knows `default` only"
    )
    cure = "writes the keys without it, as every verb does that writes an adapter"

    def find(self, seen: Seen) -> Iterator[Note]:
        named = _named(seen.adapter)
        if named:
            key, name = next(iter(named.items()))
            yield Note(
                "problem",
                f"the name {name!r} of an adapter in memory is in {len(named)} keys, and PEFT "
                f"loads them under no other name: {shorten(key)}",
            )

    def repair(self, adapter: Adapter) -> tuple[Adapter, tuple[Change, ...]]:
        return adapter, tuple(
            Change(None, key, _NAME.sub(_without_name, key)) for key in _named(adapter)
        )


def _named(adapter: Adapter) -> dict[str, str]:
    """The keys of stored tensors that contain an adapter's name, with that name."""
    updates = (source for update in adapter.updates.values() for source in update.delta.sources)
    wholes = (whole.source for whole in adapter.replaced.values())
    keys = (key for source in chain(updates, wholes) for key in source.keys)
    unusual = [key for key in keys if not key.endswith(_USUAL)]
    return {key: match[1] for key in unusual if (match := _NAME.search(key))}


def _without_name(match: re.Match[str]) -> str:
    return match[0].rpartition(".")[0]


TRAP = _AdapterName()
