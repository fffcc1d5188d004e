"""The name that an adapter had in PEFT's memory is still in the keys."""

import re
from collections.abc import Iterator
from itertools import chain

from loratools.adapter import Adapter
from loratools.errors import counted, shorten
from loratools.parts import Note
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
        named = [match for _, match in _named(seen.adapter)]
        if named:
            yield Note(
                "problem",
                f"the name {named[0][1]!r} of an adapter in memory is in "
                f"{counted(len(named), 'key')}, and PEFT loads them under no other "
                f"name: {shorten(named[0].string)}",
            )

    def repair(self, adapter: Adapter) -> tuple[Adapter, tuple[Change, ...]]:
        ends = ((target, match.string[match.start() + 1 :]) for target, match in _named(adapter))
        return adapter, tuple(
            Change(target, end, _NAME.sub(_without_name, f".{end}")[1:]) for target, end in ends
        )


def _named(adapter: Adapter) -> list[tuple[str, re.Match[str]]]:
    """The keys of stored tensors that contain an adapter's name, each with its target."""
    stored = chain(
        ((t, source) for t, update in adapter.updates.items() for source in update.delta.sources),
        ((target, whole.source) for target, whole in adapter.replaced.items()),
    )
    unusual = {
        key: target for target, source in stored for key in source.keys if not key.endswith(_USUAL)
    }
    return [(unusual[key], match) for key in unusual if (match := _NAME.search(key))]


def _without_name(match: re.Match[str]) -> str:
    return match[0].rpartition(".")[0]


TRAP = _AdapterName()
