"""What a swap did, and which adapters are in the model now."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from loratools.errors import counted
from loratools.files.swapped import SwappedIn
from loratools.merging.report import MergeReport
from loratools.showing.parts import Part, aside, human_size
from loratools.showing.shown import Shown
from loratools.typed import worded


@final
@dataclass(frozen=True, repr=False)
class SwapReport(Shown):
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

    def shown(self, *, verbose: bool = False) -> Iterator[Part]:
        """What became of every tensor, which adapters are in, and what was rewritten."""
        if self.completed:
            yield aside("Note", "a swap that was interrupted is completed")
        if self.merge is not None:
            yield from self.merge.account(verbose=verbose)
        size = (
            f"{counted(len(self.rewritten), 'tensor')}, {human_size(sum(self.rewritten.values()))}"
        )
        if self.dry_run:
            yield f"dry run: nothing written ({size} would be)"
        elif self.merge is not None:
            yield f"in: {_names(self.adapters)}"
            kept = human_size(self.originals_bytes)
            yield f"rewritten in {self.model}: {size}; originals kept: {kept}"
        elif self.rewritten:
            yield f"out: {_names(self.before)}"
            yield f"rewritten in {self.model}: {size}; each byte is as it was"
        elif self.adapters:
            yield f"in: {_names(self.adapters)}"
            yield f"originals kept for {self.model}: {human_size(self.originals_bytes)}"
        else:
            put = worded("swap or merge --in-place", "a swap")
            yield f"{self.model}: no adapter is in that {put} put there"

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


def _names(adapters: Sequence[SwappedIn]) -> str:
    return " + ".join(a.path if a.weight == 1 else f"{a.path} × {a.weight:g}" for a in adapters)
