"""The index of tensors that are spread over several files: which file contains which tensors."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any, final

from loratools.errors import FormatError, listing
from loratools.io.folder import Folder, read_json_in

INDEX_ENDING = ".index.json"
#: The form of the names that all writers give to one file of several. Earlier versions of diffusers
#: put the name of a variant after the number, as in `model-00001-of-00002.fp16.safetensors`.
_SHARD = re.compile(r"(?P<stem>.+)-\d+-of-(?P<total>\d+)(?P<variant>\.[^.]+)?\.\w+")
#: diffusers and transformers put that of the index in here: `model.safetensors.index.fp16.json`.
_INDEX = re.compile(r".+\.index(\.[^.]+)?\.json")


@final
@dataclass(frozen=True)
class Index:
    """The names of each shard's tensors, by the shards' file names, which are sorted.

    `where` is the index's name in messages.
    """

    where: str
    shards: Mapping[str, list[str]]
    metadata: Mapping[str, Any]

    def check(self, shard: str, held: Iterable[str]) -> None:
        """Check that a shard holds the tensors that the index lists for it, and no others.

        Raises:
            FormatError: the shard does not.
        """
        held, listed = list(held), self.shards[shard]
        if missing := _without(listed, held):
            raise FormatError(
                f"{self.where}: says that {shard} holds {listing(missing)}, which it does not"
            )
        if extra := _without(held, listed):
            raise FormatError(f"{self.where}: does not list {listing(extra)}, which {shard} holds")

    def check_whole(self, names: Iterable[str]) -> None:
        """Check that no file of the folder is, by its name, a part that the index does not list.

        Raises:
            FormatError: there is such a file.
        """
        parts = {shard_parts(shard) for shard in self.shards} - {None}
        if unlisted := [n for n in _without(names, self.shards) if shard_parts(n) in parts]:
            raise FormatError(
                f"{self.where}: does not list {listing(unlisted)}, another part by its name"
            )


def is_index(name: str) -> bool:
    """Whether a file of this name is an index."""
    return _INDEX.fullmatch(name) is not None


def shard_parts(name: str) -> tuple[str, int] | None:
    """The stem of a file that is one of several, and their number; None for a file that is whole.

    >>> shard_parts("model-00001-of-00002.safetensors")
    ('model', 2)
    """
    found = _SHARD.fullmatch(name)
    return found and (f"{found['stem']}{found['variant'] or ''}", int(found["total"]))


def refuse_part(folder: Folder, name: str) -> None:
    """Raise a `FormatError` if a file that was named is one of several."""
    parts = shard_parts(name)
    if parts is not None and parts[1] > 1:
        raise FormatError(
            f"{folder.where}/{name}: one of {parts[1]} parts that are read as a whole",
            hint="name their folder, or their index",
        )


def read_index(folder: Folder, name: str) -> Index:
    """Read an index; its name has the suffix of its files, as `model.safetensors.index.json` does.

    Raises:
        FormatError: the index is malformed, or names anything but such files in this folder.
        StorageError: the index cannot be read.
    """
    where = f"{folder.where}/{name}"
    fields = read_json_in(folder, name)
    weight_map = fields.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{where}: has no weight_map", hint="download it again")
    of_safetensors = ".safetensors." in name  # the name of a variant may come after it
    suffix = PureWindowsPath(name.removesuffix(INDEX_ENDING)).suffix
    suffix = ".safetensors" if of_safetensors else suffix
    shards: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        shards.setdefault(plain_name(where, shard, suffix), []).append(tensor)
    missing = _without(sorted(shards), folder.names())
    if missing and (missing := _without(missing, folder.folders())):  # opening a folder says so
        raise FormatError(
            f"{where}: lists {listing(missing)}, and no such file is in the folder",
            hint="download it too",
        )
    metadata = fields.get("metadata")
    return Index(
        where, dict(sorted(shards.items())), metadata if isinstance(metadata, dict) else {}
    )


def plain_name(index: str, name: object, suffix: str) -> str:
    """`name`, found in the file `index`, if it is a plain file name on POSIX and on Windows.

    Raises:
        FormatError: it is not, or does not have this suffix.
    """
    if (
        not isinstance(name, str)
        or not name.endswith(suffix)
        or PureWindowsPath(name).name != name
        or ":" in name
        or not name.isprintable()
    ):
        kind = "safetensors" if suffix == ".safetensors" else suffix
        raise FormatError(f"{index}: {name!r:.120} is not the plain name of a {kind} file")
    return name


def _without(names: Iterable[str], others: Iterable[str]) -> list[str]:
    known = set(others)
    return [name for name in names if name not in known]
