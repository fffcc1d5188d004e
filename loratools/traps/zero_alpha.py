"""An alpha of 0, which some writers store where none was set."""

from collections.abc import Iterator, Mapping

from loratools.adapter import Adapter
from loratools.deltas.lora import Scaling
from loratools.parts import Note
from loratools.traps._trap import Seen, Trap, listed, scalings


class _ZeroAlpha(Trap):
    what = "An alpha is 0, which some converters write where none was set."
    readers = (
        "ComfyUI, vLLM, PEFT and sd-scripts' merges switch the update off. sd-scripts in training, "
        "LyCORIS and llama.cpp take it for an alpha that is not set: a scaling of 1"
    )
    cure = "writes the rank as alpha, for a scaling of 1"
    found_by = "every verb"
    is_doubt = True

    def find(self, seen: Seen) -> Iterator[Note]:
        off = [target for target, scaling in scalings(seen.adapter) if scaling.value == 0]
        if off:
            yield Note(
                "problem",
                f"an alpha of 0, which switches the update off in some programs and means a "
                f"scaling of 1 in others; taken as 0 here: {listed(off)}",
            )

    def cured(self, adapter: Adapter) -> Mapping[str, Scaling]:
        return {t: scaling.giving(1) for t, scaling in scalings(adapter) if scaling.value == 0}


TRAP = _ZeroAlpha()
