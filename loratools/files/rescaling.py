"""Rescale an adapter, from files to files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from loratools.files.opening import open_adapter
from loratools.files.writing import Written, write_adapter
from loratools.operations.grouping import pattern_of
from loratools.operations.parallel import threads
from loratools.operations.rescale import Rescaling
from loratools.operations.rescale import rescale as rescale_adapter


@final
@dataclass(frozen=True)
class RescaleReport:
    """What was done; `written` is None after a dry run. `strengths` are by target."""

    adapter: str
    strengths: Mapping[str, float]
    notes: tuple[str, ...]
    written: Written | None

    def groups(self) -> dict[str, tuple[float, ...]]:
        """The strengths of targets whose names differ only in numbers, by pattern."""
        groups: dict[str, tuple[float, ...]] = {}
        for target, strength in self.strengths.items():
            pattern = pattern_of(target)
            groups[pattern] = (*groups.get(pattern, ()), strength)
        return groups

    def to_json(self) -> dict[str, Any]:
        """The documented object of `rescale --json`."""
        return {
            "adapter": self.adapter,
            "output": self.written.path if self.written else None,
            "bytes": self.written.nbytes if self.written else None,
            "strengths": dict(self.strengths),
            "notes": list(self.notes),
        }


def rescale(
    adapter: str | Path,
    *,
    output: str | Path | None,
    rescaling: Rescaling,
    overwrite: bool = False,
    config: str | Path | None = None,
    allow_pickle: bool = False,
) -> RescaleReport:
    """Write the adapter with other strengths, or with the same stored in another way.

    Without an `output` nothing is written.

    Raises:
        LoratoolsError: see `loratools.errors`; nothing is then left behind, and no input touched.
    """
    opened = open_adapter(adapter, config=config, allow_pickle=allow_pickle)
    found = rescale_adapter(opened, rescaling)
    written = None
    if output is not None:
        inputs = [Path(adapter), *([Path(config)] if config else [])]
        with threads(None) as each:
            written = write_adapter(
                found.adapter, Path(output), inputs=inputs, overwrite=overwrite, each=each
            )
    return RescaleReport(opened.where, found.strengths, found.notes, written)
