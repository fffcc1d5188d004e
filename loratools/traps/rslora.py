"""Rank stabilisation is only in the config, where some programs do not look."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from loratools.adapter import Adapter
from loratools.deltas.lora import Scaling
from loratools.parts import Note
from loratools.traps._trap import Seen, Trap, scalings
from loratools.typed import repairing


class _RSLoRA(Trap):
    what = "Only `use_rslora` in the config says that alpha is divided by the root of the rank."
    readers = (
        "SGLang, llama.cpp's converter and ComfyUI ignore it, and divide by the rank: the update "
        "is √rank times too weak"
    )
    cure = "writes the alpha that gives the same scaling when it is divided by the rank"

    def find(self, seen: Seen) -> Iterator[Note]:
        ranks = {s.rank for s in _stabilised(seen.adapter).values() if s.rank > 1}
        if ranks:
            weaker = " to ".join(f"{rank**0.5:.3g}" for rank in sorted({min(ranks), max(ranks)}))
            yield Note(
                "info",
                f"only the config says that alpha is divided by the root of the rank: for SGLang, "
                f"llama.cpp and ComfyUI, which do not read it, the update is {weaker} times "
                f"weaker ({repairing('rslora')} writes alpha for the rank)",
            )

    def cured(self, adapter: Adapter) -> Mapping[str, Scaling]:
        return {
            target: replace(scaling, rule="rank").giving(scaling.value)
            for target, scaling in _stabilised(adapter).items()
        }


def _stabilised(adapter: Adapter) -> dict[str, Scaling]:
    """The scalings that a config says are stabilised; the metadata is another trap's."""
    if adapter.filed is None or adapter.filed.config is None:
        return {}
    return {t: scaling for t, scaling in scalings(adapter) if scaling.rule == "sqrt_rank"}


TRAP = _RSLoRA()
