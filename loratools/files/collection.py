"""The contents of a folder of adapters: what each file and each subfolder in it is, by its name."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple, final

from loratools.files.beside import WEIGHT_SUFFIXES, is_hidden
from loratools.files.contents import OF_TRAINING
from loratools.files.finding import (
    common_stem,
    config_among,
    is_archive,
    is_model,
    is_pickle,
)
from loratools.files.manifest import MANIFEST
from loratools.files.pipelines import is_pipeline
from loratools.files.variants import variants
from loratools.formats import adapter_weights, is_adapter_file
from loratools.io.folder import Folder
from loratools.io.index import is_index, shard_parts
from loratools.typed import flag

_TENSORS = ".safetensors"
_TENSOR_FILES = (_TENSORS, ".sft")  # a short form that some image models are published with
_INDEX = f"{_TENSORS}.index"


@final
class Other(NamedTuple):
    """What something is that is no adapter.

    Attributes:
        name: one of them, in words.
        plural: several of them.
        has_weights: whether it has weights, or may have some.
        told: what is not done with it, and what does it; `{}` stands for an option.
        option: the name of that option.
    """

    name: str
    plural: str
    has_weights: bool = False
    told: str | None = None
    option: str | None = None

    @property
    def advice(self) -> str | None:
        """What is not done with it, and what does it; None where nothing does."""
        return self.told and self.told.format(self.option and flag(self.option))


_HIDDEN = Other("hidden", "hidden")
_PICKLE = Other(
    "a pickle", "pickles", True, "not read, as a pickle can run code; {} reads it", "allow_pickle"
)
_OTHER_PICKLE = Other("a pickle", "pickles", has_weights=True)
_OTHER_WEIGHTS = Other("weights for other programs", "weights for other programs", has_weights=True)
_UNKNOWN = Other("of an unknown kind", "of unknown kinds")
_MODEL = Other("a model", "models", has_weights=True)
_PIPELINE = Other("a pipeline of diffusers", "pipelines of diffusers", has_weights=True)
_OVERLAY = Other("an overlay of a base", "overlays of bases", has_weights=True)
_DEEPER = Other("a folder", "folders", True, "not looked into; {} does that", "recursive")
_LINK = Other("a link", "links", True, "not followed; name it to have its folder looked into")

#: What files with these suffixes are; the first row that has a suffix decides.
_BY_SUFFIX = {
    (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif"): Other("an image", "images"),
    (".mp4", ".webm", ".mov", ".mkv"): Other("a video", "videos"),
    (".json", ".jsonl", ".info"): Other("JSON", "JSON"),
    (".txt", ".md", ".caption", ".html", ".log"): Other("text", "text"),
    (".yaml", ".yml", ".toml", ".ini", ".cfg"): Other("settings", "settings"),
    (".zip", ".tar", ".gz", ".7z", ".rar"): Other("an archive", "archives"),
    (".part", ".crdownload", ".incomplete", ".aria2"): Other(
        "an unfinished download", "unfinished downloads"
    ),
    (".gguf",): Other("a GGUF file", "GGUF files", has_weights=True),
    (".bin", ".pt", ".pth"): _PICKLE,
    (".ckpt", ".pkl", ".pickle"): _OTHER_PICKLE,
    WEIGHT_SUFFIXES: _OTHER_WEIGHTS,
}


@final
class Item(NamedTuple):
    """A file or a folder in a collection, by its path in there.

    `other` is what it is if it is no adapter by its name, and None if it has to be opened.
    """

    name: str
    other: Other | None = None


def is_collection(folder: Folder) -> bool:
    """Whether a folder is neither an adapter nor a model, nor has only one file that may be one.

    Pickles may be: a table names them, whether they are read or not.

    Raises:
        OSError: the folder cannot be read.
    """
    if whole_at(folder, "") is not None:
        return False
    own = folder.names()
    items = contents(folder)
    if any(item.other is None and item.name not in own for item in items):
        return True
    beside = [i for i in items if i.name in own and OF_TRAINING.match(i.name) is None]
    weights = [i.name for i in beside if i.other in (None, _PICKLE, _OTHER_PICKLE)]
    # A file with the suffix in capitals, or in its short form, is found in a table only.
    suffixes = [PurePath(name).suffix for name in weights]
    is_unusual = any(s != _TENSORS and s.lower() in _TENSOR_FILES for s in suffixes)
    return is_unusual or len(set(map(common_stem, weights))) > 1


def contents(
    folder: Folder, *, recursive: bool = False, allow_pickle: bool = False
) -> tuple[Item, ...]:
    """All that is in a folder of adapters, sorted by name, where 2 is before 10.

    An adapter or a model that has a folder of its own is one item; `.` if it is in `folder` itself.
    Of other subfolders, the files directly in them are items; if `recursive`, those at any depth
    are. Links to folders are not followed, unless they lead to such an adapter. Pickles have to be
    opened with `allow_pickle`, or if their names are those of adapters.

    Raises:
        OSError: the folder cannot be read.
    """
    walk = _Walk(allow_pickle, recursive)
    whole = whole_at(folder, ".")
    found = walk.inside(folder, "", 1) if whole is None else walk.whole(whole, folder, "")
    return tuple(sorted(found, key=lambda item: natural(item.name)))


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names as people do: words in either case, and numbers by their size.

    >>> sorted(["b10", "B2", "a"], key=natural)
    ['a', 'B2', 'b10']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    return [(int(part), "") if "0" <= part[0] <= "9" else (-1, part) for part in parts]


def other_by_name(name: str, *, allow_pickle: bool = False) -> Other | None:
    """What a file is by the last part of its name; None if it has to be opened."""
    last = name.rpartition("/")[2]
    if is_hidden(last):
        return _HIDDEN
    lower = last.lower()
    if lower.endswith(_TENSOR_FILES) or is_archive(last) or (is_index(last) and _INDEX in last):
        return None
    if is_pickle(last) and (allow_pickle or is_adapter_file(last)):
        return None
    return next((other for ends, other in _BY_SUFFIX.items() if lower.endswith(ends)), _UNKNOWN)


@final
@dataclass(frozen=True)
class _Walk:
    """A walk through a folder and its subfolders."""

    allow_pickle: bool
    recursive: bool

    def inside(self, folder: Folder, at: str, depth: int) -> Iterator[Item]:
        """What is in a folder, whose path is `at`, and at most `depth` folders down."""
        names = folder.names()
        indexed = {name.partition(_INDEX)[0] for name in names if is_index(name)}
        for name in names:
            parts = shard_parts(name)
            if parts is None or parts[0] not in indexed:
                yield Item(at + name, other_by_name(name, allow_pickle=self.allow_pickle))
        yield from (Item(at + name, _HIDDEN) for name in folder.of_macos())
        for name in folder.folders():
            yield from self._subfolder(folder, name, at, depth)

    def whole(self, item: Item, folder: Folder, at: str) -> Iterator[Item]:
        """An adapter or a model in a folder of its own; if recursive, what is beneath an adapter.

        The other files of its folder belong to it.
        """
        yield item
        if self.recursive and item.other is None:
            for name in folder.folders():
                yield from self._subfolder(folder, name, at, 0)

    def _subfolder(self, folder: Folder, name: str, at: str, depth: int) -> Iterator[Item]:
        path, inner = at + name, folder.subfolder(name)
        if is_hidden(name):
            yield Item(path, _HIDDEN)
            return
        is_link = folder.path is not None and (folder.path / name).is_symlink()
        try:
            if (whole := whole_at(inner, path)) is not None:
                yield from (whole,) if is_link else self.whole(whole, inner, f"{path}/")
            elif is_link:
                yield Item(path, _LINK)
            elif self.recursive or depth:
                yield from self.inside(inner, f"{path}/", depth - 1)
            elif inner.names() or inner.folders():
                yield Item(path, _DEEPER)
        except OSError:  # opening it says why
            yield Item(path)


def whole_at(folder: Folder, path: str) -> Item | None:
    """The adapter or the model that a folder is; None if its files are things of their own.

    The usual name of an adapter's file makes an adapter of a folder only without other such files:
    what was downloaded under this name lies among others as they do.
    """
    names = folder.names()
    if MANIFEST in names:
        return Item(path, _OVERLAY)
    if is_pipeline(folder):
        return Item(path, _PIPELINE)
    if is_model(folder) and (variants(names) or any(n.startswith("pytorch_model") for n in names)):
        return Item(path, _MODEL)
    if config_among(names) is not None:
        return Item(path)
    own = [n for n in names if not is_index(n) and OF_TRAINING.match(n) is None]
    opened = {common_stem(name) for name in own if other_by_name(name) is None}
    return Item(path) if len(opened) == 1 and opened.intersection(adapter_weights()) else None
