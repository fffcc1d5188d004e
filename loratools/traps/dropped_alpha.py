"""Alpha is a tensor in a file with diffusers' names, where diffusers does not read it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from loratools.adapter import Adapter
from loratools.deltas.lora import Scaling
from loratools.parts import Note
from loratools.traps._trap import Seen, Trap, listed, scalings
from loratools.typed import repairing


class _DroppedAlpha(Trap):
    what = "A file with diffusers' names (`transformer.….lora_A.weight`) has alphas as tensors."
    readers = (
        "diffusers reads them for Flux.1 alone, if there is no metadata. Its other pipelines "
        "refuse the file, and a model that loads an adapter by itself (`load_lora_adapter`) drops "
        "them without a word, for a scaling of 1. PEFT drops them too; here an adapter of PEFT's "
        "that has them beside a config is refused"
    )
    cure = "writes alpha into the metadata, which diffusers reads"

    def find(self, seen: Seen) -> Iterator[Note]:
        dropped = _dropped(seen.adapter)
        if dropped:
            values = ", ".join(f"{value:.4g}" for value in _values(dropped)[:3])
            yield Note(
                "problem",
                f"alpha is a tensor, for which diffusers refuses the file, or applies a scaling of "
                f"1 and not of {values} ({repairing()} writes alpha into the metadata): "
                f"{listed(dropped)}",
            )

    def cured(self, adapter: Adapter) -> Mapping[str, Scaling]:
        return {
            target: replace(scaling, origin="metadata", source=None)
            for target, scaling in _dropped(adapter).items()
        }


def _values(found: Mapping[str, Scaling]) -> list[float]:
    return [*dict.fromkeys(scaling.value for scaling in found.values())]


def _dropped(adapter: Adapter) -> dict[str, Scaling]:
    """The scalings with an alpha as a tensor that diffusers does not read and that matters."""
    if adapter.filed is None or adapter.filed.dialect != "diffusers":
        return {}
    return {t: s for t, s in scalings(adapter) if s.origin == "tensor" and s.value != 1}


TRAP = _DroppedAlpha()
