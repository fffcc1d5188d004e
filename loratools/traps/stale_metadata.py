"""The metadata's rank or alpha is not that of the tensors."""

from loratools.adapter import Adapter
from loratools.traps._trap import Change, Trap, rewritten


class _StaleMetadata(Trap):
    what = "`ss_network_dim` or `ss_network_alpha` in the metadata is not what the tensors have."
    readers = (
        "programs that show the metadata, or initialise a training by it, are misled; those that "
        "apply the update read the tensors"
    )
    cure = "writes the metadata by the tensors, as every verb does that writes an adapter"
    found_by = "every verb"

    def repair(self, adapter: Adapter) -> tuple[Adapter, tuple[Change, ...]]:
        return rewritten(adapter, "stale-metadata", "the metadata has what the tensors have")


TRAP = _StaleMetadata()
