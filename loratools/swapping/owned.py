"""Which files a swap may rewrite: those that are the user's own copy, and nobody else's."""

import os
import re
import stat
from pathlib import Path

from loratools.errors import FormatError, OutputError, UnsupportedError
from loratools.files.checkpoints import checkpoint_as_stored
from loratools.files.place import layers_of
from loratools.hub.names import is_hub_name
from loratools.io.checkpoint import Checkpoint
from loratools.io.failures import path_errors
from loratools.io.folder import place_here
from loratools.typed import merging, worded

_CACHED_REPOSITORY = re.compile(r"(models|datasets|spaces)--")
_COPY = "copy the model first (cp -rL), and swap in the copy"


def open_own(path: str | Path, variant: str | None = None) -> Checkpoint:
    """The model at a path, whose weight files may be rewritten; also one that is half swapped.

    Raises:
        OutputError: a weight file is a link or has several names, may not be written, or is in a
            cache of the Hub.
        UnsupportedError: the name is one on the Hub, or of a base with an overlay.
        FormatError: a file is missing or malformed.
        StorageError: a file cannot be read.
    """
    if is_hub_name(path):
        raise UnsupportedError(
            f"{path}: a swap rewrites files in place",
            hint=worded("pull the model with -o", "pull the model to an output"),
        )
    if len(layers_of(path)) > 1:
        raise UnsupportedError(
            f"{path}: a base with an overlay, and a swap rewrites one model",
            hint=f"write it as one with {merging()}",
        )
    with path_errors(path, FormatError):
        base = checkpoint_as_stored(place_here(Path(path)), variant)
        if base.is_pipeline:
            example = base.components[-1].folder
            raise UnsupportedError(
                f"{path}: a pipeline, and a swap rewrites one model",
                hint=f"name the folder of a "
                f"component, such as {example}, or write the pipeline with {merging()}",
            )
        for shard in base.shards:
            _check_own(shard.file.path)
    return base


def _check_own(file: Path) -> None:
    """Refuse a file that is not, or may not be, this model's alone."""
    status = file.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise OutputError(f"{file}: a link, and what it leads to may be others' too", hint=_COPY)
    if status.st_nlink > 1:
        raise OutputError(f"{file}: has {status.st_nlink} names (hard links)", hint=_COPY)
    # Root may write what is read-only; that it is so shows that it is not to be written.
    if not status.st_mode & 0o222 or not os.access(file, os.W_OK):
        raise OutputError(f"{file}: read-only", hint=_COPY)
    if any(_CACHED_REPOSITORY.match(parent.name) for parent in file.resolve().parents):
        raise OutputError(f"{file}: in a cache of the Hub, where others read it", hint=_COPY)
