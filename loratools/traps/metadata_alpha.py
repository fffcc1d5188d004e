"""The scaling is only in diffusers' metadata, where some programs do not look."""

from collections.abc import Iterator

from loratools.adapter import Adapter
from loratools.deltas.lora import Origin
from loratools.parts import Note
from loratools.traps._trap import Seen, Trap, listed, scalings
from loratools.typed import folding


class _MetadataAlpha(Trap):
    what = "Only the metadata of the file (`lora_adapter_metadata`) says alpha."
    readers = (
        "ComfyUI, Forge and sd-scripts do not read it, and apply the update with a scaling of 1"
    )

    @property
    def cure(self) -> str:
        """What is done about it."""
        return f"{folding()} puts the scaling into the factors, which are rounded once"

    def find(self, seen: Seen) -> Iterator[Note]:
        found = {
            target: scaling.value
            for target, scaling in scalings(seen.adapter)
            if scaling.origin in _origins(seen.adapter) and scaling.value not in (0, 1)
        }
        for value in dict.fromkeys(found.values()):
            targets = [target for target, other in found.items() if other == value]
            yield Note(
                "info",
                f"only the metadata says that the scaling is {value:.4g}: ComfyUI applies the "
                f"update with 1 ({folding()} puts the scaling into the factors): "
                f"{listed(targets)}",
            )


def _origins(adapter: Adapter) -> tuple[Origin, ...]:
    """Where the metadata is the origin of an alpha: a pattern is its own, if there is no config."""
    has_config = adapter.filed is None or adapter.filed.config is not None
    return ("metadata",) if has_config else ("metadata", "alpha_pattern")


TRAP = _MetadataAlpha()
