"""What a swap did, and which adapters are in the model now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from loratools.files.swapped import SwappedIn
from loratools.merging.report import MergeReport


@final
@dataclass(frozen=True)
class SwapReport:
    """The account of a swap, of the plan of one, or of a look at what is in a model.

    Attributes:
        model: the model, as it was named.
        before: the adapters that were in the model.
        adapters: those that are in it now, or would be after a dry run.
        rewritten: the sizes in bytes of the tensors that were written, or would be, by name.
        originals_bytes: the size of the original tensors that are kept beside the model.
        completed: whether a swap that was interrupted was completed first.
        dry_run: whether nothing was written.
        merge: the account of the new values; None if no adapter was put in.
    """

    model: str
    before: Sequence[SwappedIn]
    adapters: Sequence[SwappedIn]
    rewritten: Mapping[str, int]
    originals_bytes: int
    completed: bool = False
    dry_run: bool = False
    merge: MergeReport | None = None

    def to_json(self) -> dict[str, Any]:
        """The documented object of `swap --json`."""
        return {
            "model": self.model,
            "before": [{"path": a.path, "weight": a.weight} for a in self.before],
            "adapters": [{"path": a.path, "weight": a.weight} for a in self.adapters],
            "tensors_rewritten": len(self.rewritten),
            "bytes_rewritten": sum(self.rewritten.values()),
            "originals_bytes": self.originals_bytes,
            "completed": self.completed,
            "dry_run": self.dry_run,
            "merge": None if self.merge is None else self.merge.to_json(),
        }
