"""The manifest of an overlay: the changed tensors of a merge, written without the others."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from loratools.files.companions import Companions
from loratools.files.fingerprint import Fingerprint, fingerprint
from loratools.files.manifest import BESIDE, MANIFEST, Entry, Manifest
from loratools.files.overlays import base_identity
from loratools.files.place import layers_of, name_of
from loratools.io.checkpoint import Shard
from loratools.io.file import InputFile
from loratools.io.publish import Staging
from loratools.io.source import stored_tensors
from loratools.merging.arrange import PlannedFile
from loratools.merging.plan import MergePlan, PlannedTensor


def write_overlay(
    plan: MergePlan, files: Sequence[PlannedFile], beside: Companions, staging: Staging
) -> None:
    """Write what an overlay has besides its weight files, which are in the staging folder already.

    Raises:
        StorageError: a file cannot be read or written.
    """
    beside.write(staging, f"{BESIDE}/")
    has_config = "config.json" in beside.made or "config.json" in beside.copied
    name = "+".join(map(name_of, layers_of(plan.base.where)))
    manifest = Manifest(
        where=str(staging.output / MANIFEST),
        base=base_identity(plan.base, name, has_config=has_config),
        shards=tuple(_fingerprint(staging.folder / file.name) for file in files),
        tensors={tensor.name: _entry(tensor, file) for file in files for tensor in file.tensors},
        renamed={
            tensor.name: tensor.base.name
            for tensor in plan.tensors.values()
            if tensor.is_renamed and tensor.base is not None
        },
        beside={
            **{name: file.sha256() for name, file in beside.copied.items()},
            **{name: hashlib.sha256(data).hexdigest() for name, data in beside.made.items()},
        },
    )
    staging.write_file(MANIFEST, manifest.encode())


def _fingerprint(path: Path) -> Fingerprint:
    file = InputFile(path)
    header = file.read_header()
    return fingerprint(Shard(file, tuple(stored_tensors(file, header).values()), header.metadata))


def _entry(tensor: PlannedTensor, file: PlannedFile) -> Entry:
    base = tensor.base if tensor.is_own else None
    replaces = None if base is None else (base.dtype, base.shape)
    return Entry(file.name, (tensor.dtype, tensor.shape), replaces)
