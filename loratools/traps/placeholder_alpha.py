"""An alpha that is no alpha, such as ai-toolkit's 9999999999, which readers have to ignore."""

from collections.abc import Iterator, Mapping

from loratools.adapter import Adapter
from loratools.deltas.lora import Scaling
from loratools.parts import Note
from loratools.traps._trap import Seen, Trap, listed, scalings

#: No training has such a scaling: in 16 bits, every factor would be lost in the rounding of it.
_ABSURD = 1e5


class _PlaceholderAlpha(Trap):
    what = "An alpha is an absurd number in place of none, such as ai-toolkit's 9999999999."
    readers = (
        "all programs multiply the update by it. Only for a LoKr whose two factors are stored "
        "whole, where ai-toolkit writes it, LyCORIS and ComfyUI ignore alpha"
    )
    cure = "writes the rank as alpha, for a scaling of 1"
    found_by = "every verb"
    is_doubt = True

    def find(self, seen: Seen) -> Iterator[Note]:
        found = _absurd(seen.adapter)
        if found:
            alpha = next(iter(found.values())).alpha
            yield Note(
                "problem",
                f"an alpha of {alpha:.10g}, which can only stand for one that was not set; taken "
                f"as it is here: {listed(found)}",
            )

    def cured(self, adapter: Adapter) -> Mapping[str, Scaling]:
        return {target: scaling.giving(1) for target, scaling in _absurd(adapter).items()}


def _absurd(adapter: Adapter) -> dict[str, Scaling]:
    return {t: scaling for t, scaling in scalings(adapter) if abs(scaling.value) >= _ABSURD}


TRAP = _PlaceholderAlpha()
