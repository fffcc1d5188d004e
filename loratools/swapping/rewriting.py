"""Bytes of tensors, by their SHA-256: hashed, compared, and copied into weight files in place."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from loratools.errors import FormatError, StorageError, listing, shorten
from loratools.files.swapped import SwapState
from loratools.io.checkpoint import Checkpoint, Shard
from loratools.io.failures import storage_errors
from loratools.io.file import InputFile
from loratools.io.header import LENGTH_BYTES, header_size
from loratools.io.platform import copy_range
from loratools.io.source import Stored, stored_tensors
from loratools.running.share import Span
from loratools.swapping.each import on_each
from loratools.swapping.phases import WRITING

_CHUNK = 4 * 2**20
_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def rewrite(base: Checkpoint, folder: Path, state: SwapState, jobs: int | None, span: Span) -> None:
    """Copy each tensor that has a source from there into its weight file, and make it durable.

    The sources must have been checked. Running it again, after it was interrupted anywhere, does
    the same.

    Raises:
        StorageError: a file cannot be read or written, or then has other bytes than it should.
        FormatError: a source is missing.
    """
    sources = sources_of(folder, state)
    copying, verifying = span.split(*WRITING)
    written = [[tensor for tensor in s.tensors if tensor.name in sources] for s in base.shards]
    parts = copying.split(*(sum(tensor.nbytes for tensor in tensors) for tensors in written))
    for shard, tensors, part in zip(base.shards, written, parts, strict=True):
        if tensors:
            _copy(shard, tensors, sources, jobs, part)
    wanted = {name: state.tensors[name].current for name in sources}
    if bad := _differing(_anew(base), wanted, jobs, verifying):
        raise StorageError(f"{base.where}: was not written as planned: {listing(bad)}")


def check_sources(folder: Path, state: SwapState, jobs: int | None, span: Span) -> None:
    """Check that the bytes that are still to be written are there, and are those meant.

    Raises:
        FormatError: they are not.
        StorageError: they cannot be read.
    """
    sources = sources_of(folder, state)
    wanted = {name: state.tensors[name].current for name in sources}
    if bad := _differing(sources, wanted, jobs, span):
        raise FormatError(f"{folder}: other bytes than were put there, of {listing(bad)}")


def sources_of(folder: Path, state: SwapState) -> dict[str, Stored]:
    """The tensors that are still to be written, by name, in the files that have their bytes."""
    return _found(folder, {n: t.source for n, t in state.tensors.items() if t.source})


def originals_of(folder: Path, state: SwapState) -> dict[str, Stored]:
    """The original tensors of all that swaps have changed, by name, not yet verified.

    Raises:
        FormatError: a file is missing or malformed.
        StorageError: a file cannot be read.
    """
    return _found(folder, {n: t.originals for n, t in state.tensors.items()})


def check_originals(
    originals: Mapping[str, Stored], folder: Path, state: SwapState, jobs: int | None, span: Span
) -> None:
    """Check that original tensors have the bytes that they had when they were kept.

    Raises:
        FormatError: they have not.
        StorageError: a file cannot be read.
    """
    wanted = {name: tensor.original for name, tensor in state.tensors.items()}
    if bad := _differing(originals, wanted, jobs, span):
        raise FormatError(
            f"{folder}: the original bytes of {listing(bad)} are damaged",
            hint="copy the model anew",
        )


def check_current(base: Checkpoint, state: SwapState, jobs: int | None, span: Span) -> None:
    """Check that a model is as its last swap has left it, which must have been completed.

    Raises:
        FormatError: it has other weight files, or some of its tensors have other bytes.
        StorageError: a file cannot be read.
    """
    wanted = {name: tensor.current for name, tensor in state.tensors.items()}
    if bad := _differing(base.tensors, wanted, jobs, span):
        raise FormatError(
            f"{base.where}: has changed since the last swap: {listing(bad)}",
            hint="to keep it as it is now, remove its folder that ends in .loratools-swap",
        )


def digest(tensor: Stored) -> str:
    """The SHA-256 of a tensor's bytes, as hex."""
    found = hashlib.sha256()
    buffer = memoryview(bytearray(min(tensor.nbytes, _CHUNK)))
    for begin in range(tensor.begin, tensor.end, _CHUNK):
        piece = buffer[: min(_CHUNK, tensor.end - begin)]
        tensor.file.read_into(piece, begin)
        found.update(piece)
    return found.hexdigest()


def digests(tensors: Mapping[str, Stored], jobs: int | None, span: Span) -> dict[str, str]:
    """The SHA-256 of each tensor, by name."""
    found = on_each(digest, list(tensors.values()), jobs, span)
    return dict(zip(tensors, found, strict=True))


def header_digest(file: InputFile) -> str:
    """The SHA-256 of a weight file's header, which says where each tensor lies."""
    size = header_size(file.read(0, LENGTH_BYTES), file.size, file.where)
    return hashlib.sha256(file.read(0, LENGTH_BYTES + size)).hexdigest()


def tensors_in(file: InputFile) -> dict[str, Stored]:
    """The tensors of a safetensors file, by name."""
    return stored_tensors(file, file.read_header())


def _copy(
    shard: Shard,
    tensors: Sequence[Stored],
    sources: Mapping[str, Stored],
    jobs: int | None,
    span: Span,
) -> None:
    """Copy sources over the tensors of one weight file, and sync it."""
    path = shard.file.path
    with storage_errors(path):
        fd = os.open(path, _FLAGS)
        try:
            on_each(partial(_copy_one, fd, path, sources), tensors, jobs, span)
            os.fsync(fd)
        finally:
            os.close(fd)


def _copy_one(fd: int, path: Path, sources: Mapping[str, Stored], tensor: Stored) -> None:
    source = sources[tensor.name]
    if source.nbytes != tensor.nbytes:
        raise FormatError(
            f"{source.file.path}: {shorten(source.name)} is of another size", tensor=source.name
        )
    with source.file.used() as original:
        copied = copy_range(original, source.begin, fd, tensor.begin, source.nbytes)
    if copied != tensor.nbytes:
        raise StorageError(f"{source.file.path}: became shorter while it was read")


def _anew(base: Checkpoint) -> dict[str, Stored]:
    """The tensors of a model whose files have changed since it was opened."""
    files = [InputFile(shard.file.path) for shard in base.shards]
    return {name: tensor for file in files for name, tensor in tensors_in(file).items()}


def _found(folder: Path, wanted: Mapping[str, str]) -> dict[str, Stored]:
    """The tensors of these names, each in the file of the folder that is given for it."""
    files = {
        name: tensors_in(InputFile(folder / name, folder=folder))
        for name in dict.fromkeys(wanted.values())
    }
    for name, file in wanted.items():
        if name not in files[file]:
            raise FormatError(
                f"{folder / file}: lacks {shorten(name)}", tensor=name, hint="copy the model anew"
            )
    return {name: files[file][name] for name, file in wanted.items()}


def _differing(
    tensors: Mapping[str, Stored], wanted: Mapping[str, str], jobs: int | None, span: Span
) -> list[str]:
    """The names of tensors that are missing, or do not have the SHA-256 that is given for each."""
    found = digests({name: tensors[name] for name in wanted if name in tensors}, jobs, span)
    return [name for name, known in wanted.items() if found.get(name) != known]
