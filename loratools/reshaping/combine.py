"""`combine` as a function: reads adapters, combines them into one, and writes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from loratools.adapter import Adapter
from loratools.errors import OptionError
from loratools.files.companions import note_left_behind
from loratools.files.opening import open_adapter
from loratools.files.place import local_paths
from loratools.files.writing import Written, fitted, write_reported
from loratools.merging.weights import weights_for
from loratools.reshaping.alignment import aligned
from loratools.reshaping.based import additive_all
from loratools.reshaping.certificates import Certificates
from loratools.reshaping.combined import Combination, Combined, combined
from loratools.reshaping.rounding_error import rounding_error, rounding_note
from loratools.reshaping.similarity import Similarity
from loratools.running.parallel import import_torch, threads

if TYPE_CHECKING:
    from loratools.lowrank.ranks import RankRule


@final
@dataclass(frozen=True)
class CombineReport:
    """The report of a combination; `certificates` is empty if nothing was truncated.

    `rounding` is the relative error that storing factors in 16 bits adds to the updates; None if
    they are stored in more bits, or unchanged. `written` is None after a dry run.
    """

    adapters: tuple[str, ...]
    weights: tuple[float, ...]
    method: str
    certificates: Certificates
    similarity: Similarity
    notes: tuple[str, ...]
    rounding: float | None
    written: Written | None

    def to_json(self) -> dict[str, Any]:
        """The report as the documented object that `combine --json` prints."""
        return {
            "adapters": list(self.adapters),
            "weights": list(self.weights),
            "method": self.method,
            "output": self.written.path if self.written else None,
            "bytes": self.written.nbytes if self.written else None,
            **self.certificates.to_json(),
            "similarity": self.similarity.to_json(),
            "rounding": self.rounding,
            "notes": list(self.notes),
        }


def combine(
    adapters: Sequence[str | Path],
    *,
    output: str | Path | None,
    weights: Sequence[float] | None = None,
    combination: Combination | None = None,
    rule: "RankRule | None" = None,
    size: int | None = None,
    base: str | Path | None = None,
    variant: str | None = None,
    overwrite: bool = False,
    jobs: int | None = None,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    approve: Callable[[CombineReport], object] | None = None,
) -> CombineReport:
    """Write one adapter that has the effect of all adapters together, with weights of 1 by default.

    Without a `rule` or a `size` (a budget in bytes for the file of tensors) nothing is truncated.
    Updates that depend on the weight they change, as DoRA does, are made additive for `base`;
    `variant` is that of its weights, where its folder has several.
    Without an `output` nothing is written.
    `approve` is called with the report before the output gets its name, or at the end of a dry run.
    If it raises, no output is left.

    Raises:
        LoratoolsError: see `loratools.errors`; no output is left then, and no input was changed.
    """
    if not adapters:
        raise OptionError("no adapter to combine")
    weights = weights_for(weights, len(adapters))
    read = [
        open_adapter(
            path, config=config, allow_pickle=allow_pickle, dialect_options=dialect_options
        )
        for path in adapters
    ]
    opened, renamed = aligned(read)
    combination = combination or Combination()
    import_torch()
    with threads(jobs) as each:

        def make(rule: "RankRule | None") -> Combined:
            additive, lost = additive_all(opened, base, rule, each, variant)
            found = combined(additive, weights, rule, combination, each)
            return replace(found, notes=(*lost, *found.notes))

        found = make(rule) if size is None else fitted(make, rule, _together(opened), size)
        rounding = rounding_error(found.adapter, each)
        report = CombineReport(
            adapters=tuple(adapter.where for adapter in opened),
            weights=weights,
            method=combination.method,
            certificates=Certificates(found.ranks, found.truncations, found.gap),
            similarity=found.similarity,
            notes=(
                *(f"{one.where}: {note.message}" for one in opened for note in one.remarks),
                *renamed,
                *found.notes,
                *note_left_behind(opened),
                *rounding_note(found.adapter, rounding),
            ),
            rounding=rounding,
            written=None,
        )
        return write_reported(
            report,
            found.adapter,
            output,
            inputs=local_paths(*adapters, config, base),
            overwrite=overwrite,
            each=each,
            approve=approve,
        )


def _together(adapters: Sequence[Adapter]) -> Adapter:
    """One adapter with the targets and whole tensors of all, each as the first owner stores it.

    It only serves to estimate the size of the result.
    """
    found = adapters[-1]
    for adapter in reversed(adapters[:-1]):
        found = replace(
            adapter,
            updates={**found.updates, **adapter.updates},
            replaced={**found.replaced, **adapter.replaced},
            rows={**found.rows, **adapter.rows},
        )
    return found
