"""Outputs that cannot be, refused before anything is written: by their place and their name."""

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from loratools.errors import OutputError, StorageError
from loratools.io.failures import path_errors
from loratools.io.inside import entries
from loratools.io.missing import no_such_folder
from loratools.io.publish import check_replaceable, partial_path
from loratools.typed import flag, pushing

#: Suffixes of files of weights, which nobody means as the name of a folder.
_SUFFIXES = {".safetensors", ".sft", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".gguf"}


def check_output(
    output: Path, inputs: Sequence[Path], *, is_folder: bool, needed_bytes: int, overwrite: bool
) -> None:
    """Refuse, before anything is written, an output that cannot or must not be there.

    Raises:
        OutputError: the output exists, is an input, lies inside one or contains one, or cannot be
            replaced; its parent is not a folder; or its name is not possible, or is that of a file
            for a folder, or of a folder for a file.
        StorageError: the output would not fit, or its parent may not be read.
    """
    parent = output.parent
    if output.parts[:1] == ("hf:",):
        name = "/".join(output.parts[1:])  # a Path has one slash where two were written
        raise OutputError(
            f"hf://{name}: an output is a path here", hint=f"{pushing()} sends it to the Hub"
        )
    if str(output) == "-":
        raise OutputError("-: an output is not standard output", hint="name a file or a folder")
    if output.name in {"", ".."}:
        raise OutputError(f"{str(output)!r}: has no name of its own", hint="name the output itself")
    with path_errors(output, OutputError):
        if not parent.is_dir():
            if os.path.lexists(parent):
                raise OutputError(f"{parent}: not a folder", hint="name another output")
            raise no_such_folder(parent)
        with contextlib.suppress(FileNotFoundError):
            partial_path(output).lstat()  # fails where a name is too long for the file system
        for source in inputs:
            _check_apart(output, source)
        if os.path.lexists(output):
            if not overwrite:
                raise OutputError(
                    f"{output}: exists already", hint=f"use {flag('overwrite')} to replace it"
                )
            check_replaceable(output, is_folder=is_folder)
        free = shutil.disk_usage(parent).free
    if needed_bytes > free:
        raise StorageError(
            f"{parent}: {needed_bytes} bytes are needed and {free} are free on that file system",
            hint="make room, or name an output on another disk",
        )
    _check_name(output, is_folder=is_folder)


def _check_apart(output: Path, source: Path) -> None:
    """Refuse an output that is an input, lies inside one or contains one.

    Files are compared and not their paths, since links and mounts give one file many paths.
    """
    ancestor = output
    while not ancestor.exists():
        ancestor = ancestor.parent
    for folder in (ancestor, *ancestor.resolve().parents):
        if source.exists() and folder.samefile(source):
            relation = "is" if folder == ancestor == output else "lies inside"
            raise OutputError(
                f"{output}: {relation} the input {source}", hint="name another output"
            )
    if output.exists():
        place = output.resolve()
        # A model in the Hub's cache is a folder of links: the files may be inside the output even
        # if the folder is not.
        inside = entries(source) if source.is_dir() else []
        for file in (source, *(source / name for name in inside)):
            if file.resolve().is_relative_to(place):
                raise OutputError(f"{output}: holds the input {file}", hint="name another output")


def _check_name(output: Path, *, is_folder: bool) -> None:
    """Refuse a folder with the name of a file of weights, and a file with another name.

    Raises:
        OutputError: the name is that of the other one.
    """
    if is_folder and is_of_weights(output):
        raise OutputError(
            f"{output}: the output is a folder, and this is the name of a file",
            hint=f"name it {output.with_suffix('')}",
        )
    if not (is_folder or is_safetensors(output)):
        name = output.with_suffix("") if is_of_weights(output) else output
        raise OutputError(
            f"{output}: the output is a safetensors file", hint=f"name it {name}.safetensors"
        )


def says_folder(output: Path) -> bool:
    """Whether an output that may be a folder or a safetensors file is a folder, by its name.

    Raises:
        OutputError: the name is that of another file of weights.
    """
    if is_of_weights(output) and not is_safetensors(output):
        folder = output.with_suffix("")
        raise OutputError(
            f"{output}: the output is a folder or a safetensors file",
            hint=f"name it {folder} or {folder}.safetensors",
        )
    return not is_safetensors(output)


def is_safetensors(path: Path) -> bool:
    """Whether a path ends as safetensors files do; programs that read them heed the case."""
    return path.suffix == ".safetensors"


def is_of_weights(path: Path) -> bool:
    """Whether a path ends as files of weights do."""
    return path.suffix.lower() in _SUFFIXES
