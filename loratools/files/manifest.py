"""The file that makes a folder an overlay: what it holds, and the base that it was made for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from loratools.errors import FormatError, UnsupportedError, shorten
from loratools.files.fingerprint import Fingerprint
from loratools.io.folder import Folder, read_json_in
from loratools.io.index import plain_name
from loratools.io.json import encode_json
from loratools.typed import worded
from loratools.version import __version__

MANIFEST = "overlay.json"
#: The folder inside an overlay with the files that belong beside the weights: `config.json` there
#: does not make the overlay a model to programs that load models.
BESIDE = "beside"
#: The field of the manifest, and of the metadata of an overlay's weight files, that marks them.
MARK = "loratools_overlay"
_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")

#: The dtype and shape of a tensor.
Kind = tuple[str, tuple[int, ...]]


@final
@dataclass(frozen=True)
class Entry:
    """One tensor of an overlay: its file, and the kind of the base's tensor that it replaces.

    `replaces` is None for a tensor that the base does not have.
    """

    file: str
    kind: Kind
    replaces: Kind | None


@final
@dataclass(frozen=True)
class BaseIdentity:
    """The base of an overlay: a name, for people, and what a base is compared with.

    `config` is the SHA-256 of the base's config, None where the overlay brings no other one.
    """

    name: str
    is_folder: bool
    config: str | None
    shards: tuple[Fingerprint, ...]


@final
@dataclass(frozen=True)
class Manifest:
    """The content of an overlay.

    Attributes:
        where: the manifest's name in messages.
        shards: the overlay's weight files.
        tensors: all tensors in them, by name.
        renamed: the base's names, by the new ones, of tensors that get another name.
        beside: the SHA-256 of each file in `BESIDE`, by its path there.
    """

    where: str
    base: BaseIdentity
    shards: tuple[Fingerprint, ...]
    tensors: Mapping[str, Entry]
    renamed: Mapping[str, str]
    beside: Mapping[str, str]

    def encode(self) -> bytes:
        """The bytes of the manifest's file, of which `where` is no part."""
        base = self.base
        return encode_json({
            MARK: _VERSION,
            "made_by": f"loratools {__version__}",
            "base": {
                "name": base.name,
                "is_folder": base.is_folder,
                "config": base.config,
                "shards": [vars(shard) for shard in base.shards],
            },
            "shards": [vars(shard) for shard in self.shards],
            "tensors": {
                name: {
                    "file": entry.file,
                    **_kind_fields(entry.kind),
                    "replaces": entry.replaces and _kind_fields(entry.replaces),
                }
                for name, entry in self.tensors.items()
            },
            "renamed": dict(self.renamed),
            "beside": dict(self.beside),
        })  # fmt: skip


def is_overlay(folder: Folder) -> bool:
    """Whether a folder is an overlay."""
    return MANIFEST in folder.names()


def refuse_overlay(folder: Folder, expected: str) -> None:
    """Raise an `UnsupportedError` if a folder is an overlay, where something else is expected."""
    if is_overlay(folder):
        raise UnsupportedError(
            f"{folder.where}: an overlay, which has only the tensors that differ from its base, "
            f"where {expected} is expected",
            hint=f"BASE+{folder.where} reads the two as one model",
        )


def refuse_part_of_overlay(metadata: Mapping[str, str], where: str) -> None:
    """Raise an `UnsupportedError` if a file with this metadata is a part of an overlay."""
    if MARK in metadata:
        raise UnsupportedError(
            f"{where}: a file of an overlay, which has only the tensors that differ from its base",
            hint="BASE+FOLDER reads the two as one model",
        )


def overlay_files(folder: Folder) -> list[str]:
    """The names of all files of an overlay; errors as for `read_manifest`."""
    manifest = read_manifest(folder)
    shards = [shard.name for shard in manifest.shards]
    return [MANIFEST, *shards, *(f"{BESIDE}/{name}" for name in manifest.beside)]


def read_manifest(folder: Folder) -> Manifest:
    """Read the manifest of the overlay in a folder.

    Raises:
        FormatError: the folder has none, or it is malformed.
        StorageError: it cannot be read.
    """
    if not is_overlay(folder):
        by_itself = worded("with a space in place of the +", "as an argument of its own")
        raise FormatError(
            f"{folder.where}: not an overlay: it has no {MANIFEST}",
            hint=f"if it is an adapter, name it after the base, {by_itself}",
        )
    where = f"{folder.where}/{MANIFEST}"
    fields = read_json_in(folder, MANIFEST)
    if fields.get(MARK) != _VERSION:
        raise UnsupportedError(
            f"{where}: {MARK} is {fields.get(MARK)!r:.40}, and this version reads {_VERSION}"
        )
    try:
        return _parse(fields, where)
    except KeyError as error:
        raise FormatError(f"{where}: lacks the field {error}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise FormatError(f"{where}: malformed: {error}") from None


def _parse(fields: Mapping[str, Any], where: str) -> Manifest:
    base = fields["base"]
    return Manifest(
        where=where,
        base=BaseIdentity(
            name=_text(base["name"]),
            is_folder=_boolean(base["is_folder"]),
            config=None if base["config"] is None else _sha256(base["config"]),
            # Named for people only: in a pipeline by their paths.
            shards=tuple(_fingerprint(e, _text(e["name"])) for e in base["shards"]),
        ),
        shards=tuple(
            _fingerprint(e, plain_name(where, e["name"], ".safetensors")) for e in fields["shards"]
        ),
        tensors={name: _entry(entry) for name, entry in fields["tensors"].items()},
        renamed={name: _text(old) for name, old in fields["renamed"].items()},
        beside={name: _sha256(digest) for name, digest in fields["beside"].items()},
    )


def _fingerprint(entry: Mapping[str, Any], name: str) -> Fingerprint:
    return Fingerprint(name, _sha256(entry["header"]), _sha256(entry["samples"]))


def _entry(fields: Mapping[str, Any]) -> Entry:
    replaces = fields["replaces"]
    return Entry(
        _text(fields["file"]), _kind(fields), None if replaces is None else _kind(replaces)
    )


def _kind(fields: Mapping[str, Any]) -> Kind:
    shape = fields["shape"]
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise ValueError(f"{shape!r:.60} is not a shape")
    return _text(fields["dtype"]), tuple(shape)


def _kind_fields(kind: Kind) -> dict[str, object]:
    return {"dtype": kind[0], "shape": list(kind[1])}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is not a text")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r:.60} is neither true nor false")
    return value


def _sha256(value: object) -> str:
    if _SHA256.fullmatch(_text(value)) is None:
        raise ValueError(f"{shorten(_text(value), 40)!r} is not a SHA-256")
    return _text(value)
