"""An overlay on a base: the changed and new tensors of a merge, read together with the others.

The result is a `Checkpoint` like any other, whose tensors are partly in the overlay's files: the
base's shards with the base's names, in which each changed tensor has the place of the one that it
replaces. New tensors follow the last one, as a merge writes them.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from loratools.errors import FormatError, MatchError, counted, listing, shorten
from loratools.files.beside import of_model
from loratools.files.fingerprint import Fingerprint, fingerprint
from loratools.files.manifest import BESIDE, MANIFEST, BaseIdentity, Manifest, read_manifest
from loratools.io.checkpoint import Checkpoint, Component, Overlay, Shard, inside
from loratools.io.companions import Companion
from loratools.io.folder import Folder, name_in, read_json_in
from loratools.io.json import encode_json
from loratools.io.source import Stored, stored_tensors

_CONFIG = "config.json"


def lay_over(base: Checkpoint, folder: Folder, *, headers: bool) -> Checkpoint:
    """The model that an overlay makes of its base; only headers and samples of tensors are read.

    With `headers`, not even samples are: neither another base with the same header is then
    noticed, nor files of the overlay that do not belong together.

    Raises:
        FormatError: the overlay is malformed: a file is missing, or not the one it was made with.
        MatchError: the overlay was made for another base.
        StorageError: a file cannot be read.
    """
    manifest = read_manifest(folder)
    different = list(_differences(base, manifest.base, values=not headers))
    if different:
        raise MatchError(
            f"{folder.where}: was made for another base, {shorten(manifest.base.name)}: "
            f"{base.where} {listing(different, 3)}",
            hint="overlays are named after their own base, in the order in which they were made",
        )
    found = _shards(folder, manifest, headers=headers)
    companions = _companions(folder, manifest, headers=headers)
    configs = {
        path: (name_in(folder, f"{BESIDE}/{path}"), read_json_in(folder, f"{BESIDE}/{path}"))
        for path in (inside(component.folder, _CONFIG) for component in base.components)
        if path in manifest.beside
    }
    manifest_file = folder.open(MANIFEST)
    overlay = Overlay(
        folder.where, folder.path, (manifest_file, *(shard.file for shard in found)), companions
    )
    return replace(
        base,
        where=f"{base.where}+{folder.where}",
        components=_laid_over(base, manifest, found, configs),
        overlays=(*base.overlays, overlay),
    )


def base_identity(base: Checkpoint, name: str, *, has_config: bool) -> BaseIdentity:
    """What identifies a base in the manifest of an overlay, which `has_config` or not.

    Raises:
        StorageError: the base cannot be read.
    """
    config = _config_digest(base) if has_config else None
    shards = tuple(fingerprint(shard) for shard in base.shards)
    return BaseIdentity(name, base.is_folder, config, shards)


def _config_digest(base: Checkpoint) -> str | None:
    if base.config is None:
        return None
    return hashlib.sha256(encode_json(base.config, sort_keys=True)).hexdigest()


def _differences(base: Checkpoint, expected: BaseIdentity, *, values: bool) -> Iterator[str]:
    """In what a base differs from the one that an overlay was made for."""
    if base.is_folder != expected.is_folder:
        kinds = ("a single file", "a folder")
        yield f"is {kinds[base.is_folder]} and not {kinds[expected.is_folder]}"
        return
    if len(base.shards) != len(expected.shards):
        yield f"has {counted(len(base.shards), 'weight file')} and not {len(expected.shards)}"
        return
    for shard, wanted in zip(base.shards, expected.shards, strict=True):
        found = fingerprint(shard, values=values)
        if found.header != wanted.header:
            yield f"has other names, dtypes, shapes or metadata in {shard.name}"
        elif values and found.samples != wanted.samples:
            yield f"has other values in {shard.name}"
    if expected.config is not None and _config_digest(base) != expected.config:
        yield f"has another {_CONFIG}"


def _shards(folder: Folder, manifest: Manifest, *, headers: bool) -> list[Shard]:
    """The overlay's own files, each of which is the one that the manifest describes."""
    where, names = folder.where, folder.names()
    listed = {shard.name for shard in manifest.shards}
    extra = [n for n in names if n.endswith(".safetensors") and n not in listed]
    if extra:
        raise FormatError(f"{manifest.where}: does not list {listing(extra)}, which is beside it")
    opened = []
    for expected in manifest.shards:
        file = folder.open(expected.name)
        header = file.read_header()
        shard = Shard(file, tuple(stored_tensors(file, header).values()), header.metadata)
        _check_shard(fingerprint(shard, values=not headers), expected, where)
        opened.append(shard)
    _check_tensors(manifest, opened)
    return opened


def _check_shard(found: Fingerprint, expected: Fingerprint, where: str) -> None:
    what = ""
    if found.header != expected.header:
        what = "tensors"
    elif found.samples is not None and found.samples != expected.samples:
        what = "values"
    if what:
        raise FormatError(
            f"{where}/{expected.name}: has other {what} than {MANIFEST} says",
            hint="copy the overlay anew",
        )


def _check_tensors(manifest: Manifest, shards: list[Shard]) -> None:
    held = {t.name: (shard.name, (t.dtype, t.shape)) for shard in shards for t in shard.tensors}
    listed = {name: (entry.file, entry.kind) for name, entry in manifest.tensors.items()}
    wrong = [name for name in {**listed, **held} if listed.get(name) != held.get(name)]
    if wrong or sum(len(shard.tensors) for shard in shards) != len(held):
        raise FormatError(f"{manifest.where}: {listing(wrong)}: not as in the overlay's files")


def _laid_over(
    base: Checkpoint,
    manifest: Manifest,
    found: list[Shard],
    configs: Mapping[str, tuple[str, Mapping[str, Any]]],
) -> tuple[Component, ...]:
    """The base's shards with the overlay's tensors in the places of those that they replace.

    `configs` are the overlay's, each with the name of its file, by their paths in the base.
    """
    changed = {tensor.name: tensor for shard in found for tensor in shard.tensors}
    renamed = {old: new for new, old in manifest.renamed.items()}
    names = {name: renamed.get(name, name) for name in base.tensors}
    _check_places(base, manifest, {new: old for old, new in names.items()})
    new: dict[str, list[Stored]] = {}
    for name, tensor in changed.items():
        if not manifest.tensors[name].replaces:
            new.setdefault(base.component_of(name).folder, []).append(tensor)

    def laid_over(component: Component) -> Component:
        """The component with the overlay's tensors, and the new ones in its last shard."""
        *shards, last = (
            replace(shard, tensors=tuple(_placed(t, names[t.name], changed) for t in shard.tensors))
            for shard in component.shards
        )
        last = replace(last, tensors=(*last.tensors, *new.get(component.folder, ())))
        own = component.config_file, component.config
        file, config = configs.get(inside(component.folder, _CONFIG), own)
        return replace(component, shards=(*shards, last), config=config, config_file=file)

    return tuple(map(laid_over, base.components))


def _placed(tensor: Stored, name: str, changed: Mapping[str, Stored]) -> Stored:
    if name in changed:
        return changed[name]
    return tensor if tensor.name == name else tensor._replace(name=name)


def _check_places(base: Checkpoint, manifest: Manifest, old: Mapping[str, str]) -> None:
    """Check that the tensors of an overlay have the places in the base that its manifest says."""
    missing = [name for name in manifest.renamed.values() if name not in base.tensors]
    if missing or len(old) != len(base.tensors):
        raise FormatError(f"{manifest.where}: {listing(missing or old)}: cannot be renamed so")
    for name, entry in manifest.tensors.items():
        stored = base.tensors[old[name]] if name in old else None
        kind = stored and (stored.dtype, stored.shape)
        if kind != entry.replaces:
            raise FormatError(
                f"{manifest.where}: says that {shorten(name)} replaces {_described(entry.replaces)}"
                f", and the base has {_described(kind)}",
                tensor=name,
            )


def _described(kind: tuple[str, tuple[int, ...]] | None) -> str:
    return "nothing" if kind is None else f"{kind[0]} {list(kind[1])}"


def _companions(folder: Folder, manifest: Manifest, *, headers: bool) -> tuple[Companion, ...]:
    """The files that belong beside the weights, each of which is the one that the manifest says."""
    prefix = f"{BESIDE}/"
    there = [n.removeprefix(prefix) for n in folder.all_names() if n.startswith(prefix)]
    missing = [name for name in manifest.beside if name not in there]
    # Hidden files are what desktops leave in folders that they show.
    extra = [n for n in there if n not in manifest.beside and not f"/{n}".rpartition("/.")[1]]
    if odd := {*missing, *extra, *of_model(manifest.beside)[1]}:
        raise FormatError(
            f"{manifest.where}: {listing(sorted(odd))}: not as in {folder.where}/{BESIDE}"
        )
    if headers or folder.path is None:
        return ()
    found = tuple(Companion(folder.path / BESIDE, name) for name in sorted(manifest.beside))
    for companion in found:
        if companion.open().sha256() != manifest.beside[companion.name]:
            raise FormatError(
                f"{folder.where}/{prefix}{companion.name}: is not the file that {MANIFEST} says",
                hint="copy the overlay anew",
            )
    return found
