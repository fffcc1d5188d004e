"""The metadata's rank or alpha is not that of the tensors."""

from loratools.adapter import Adapter
from loratools.traps._trap import Change, Trap


class _StaleMetadata(Trap):
    what = "`ss_network_dim` or `ss_network_alpha` in the metadata is not what the tensors have."
    readers = (
        "programs that show the metadata, or initialise a training by it, are misled; those that "
        "apply the update read the tensors"
    )
    cure = "writes the metadata by the tensors, as every verb does that writes an adapter"
    found_by = "every verb"

    def repair(self, adapter: Adapter) -> tuple[Adapter, tuple[Change, ...]]:
        # The adapter is left as it is: its format writes the metadata by the tensors.
        found = [note.message for note in adapter.notes if note.trap == "stale-metadata"]
        after = "the metadata has what the tensors have"
        return adapter, tuple(Change(None, message, after) for message in found)


TRAP = _StaleMetadata()
