"""`resize` as a function: reads an adapter, changes its ranks, and writes it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from loratools.files.opening import open_adapter
from loratools.files.place import local_paths
from loratools.files.writing import Written, fitted, write_reported
from loratools.reshaping.certificates import Certificates
from loratools.reshaping.resized import resized
from loratools.reshaping.rounding_error import rounding_error, rounding_note
from loratools.running.parallel import import_torch, threads

if TYPE_CHECKING:
    from loratools.lowrank.ranks import RankRule


@final
@dataclass(frozen=True)
class ResizeReport:
    """The report of a change of ranks; `written` is None after a dry run.

    `rounding` is the relative error that storing the factors in 16 bits adds to the certificates;
    None if they are stored in more bits.
    """

    adapter: str
    certificates: Certificates
    notes: tuple[str, ...]
    rounding: float | None
    written: Written | None

    def to_json(self) -> dict[str, Any]:
        """The report as the documented object that `resize --json` prints."""
        return {
            "adapter": self.adapter,
            "output": self.written.path if self.written else None,
            "bytes": self.written.nbytes if self.written else None,
            **self.certificates.to_json(),
            "rounding": self.rounding,
            "notes": list(self.notes),
        }


def resize(
    adapter: str | Path,
    *,
    output: str | Path | None,
    rule: "RankRule | None" = None,
    size: int | None = None,
    overwrite: bool = False,
    jobs: int | None = None,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    approve: Callable[[ResizeReport], object] | None = None,
) -> ResizeReport:
    """Write the adapter with other ranks: the best approximation of each update, at its strength.

    `size` is a budget in bytes for the file of tensors, instead of one in `rule`. Without either,
    all singular values that are not zero are kept. Without an `output` nothing is written.
    `approve` is called with the report before the output gets its name, or at the end of a dry run.
    If it raises, no output is left.

    Raises:
        LoratoolsError: see `loratools.errors`; no output is left then, and no input was changed.
    """
    from loratools.lowrank.ranks import RankRule

    opened = open_adapter(
        adapter, config=config, allow_pickle=allow_pickle, dialect_options=dialect_options
    )
    import_torch()
    with threads(jobs) as each:
        make = partial(resized, opened, each=each)
        found = make(rule or RankRule()) if size is None else fitted(make, rule, opened, size)
        rounding = rounding_error(found.adapter, each)
        certificates = Certificates(found.ranks, found.truncations, found.gap)
        said = tuple(note.message for note in opened.remarks)
        notes = (*said, *found.notes, *rounding_note(found.adapter, rounding))
        return write_reported(
            ResizeReport(opened.where, certificates, notes, rounding, written=None),
            found.adapter,
            output,
            inputs=local_paths(adapter, config),
            overwrite=overwrite,
            each=each,
            approve=approve,
        )
