"""A dry run refuses the output that the run would refuse."""

from pathlib import Path
from typing import Any


def check_unwritten(made: Any, output: str | None, *, dry_run: bool, overwrite: bool) -> None:
    """After a dry run, check that what was made in memory could be written to `output`.

    Raises:
        LoratoolsError: it could not; see `write_adapter`.
    """
    if not dry_run or output is None:
        return
    from loratools.files.place import local_paths
    from loratools.files.writing import check_writing

    check_writing(made, Path(output), inputs=local_paths(made), overwrite=overwrite)
