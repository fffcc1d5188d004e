"""What of a folder is published, and what would embarrass: refused before anything is sent."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from loratools.errors import (
    FormatError,
    NonFiniteError,
    UnsupportedError,
    listing,
    shorten,
    storage_errors,
)
from loratools.files.finding import ADAPTER_CONFIG, tensor_files
from loratools.files.opening import adapter_files
from loratools.hub.names import check_path
from loratools.io.checkpoint import Checkpoint, is_companion, open_checkpoint, weight_files
from loratools.io.file import InputFile
from loratools.io.finite import holds_nonfinite
from loratools.io.folder import LocalFolder

if TYPE_CHECKING:
    from loratools.operations.inspect import Inspection

_ABOUT = ("README", "LICENSE", "LICENCE", "NOTICE")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@final
@dataclass(frozen=True)
class Publishable:
    """What is to be published: its files by their paths, and what was left out of its folder."""

    path: Path
    files: Mapping[str, Path]
    left_out: tuple[str, ...]

    @property
    def is_model(self) -> bool:
        """Whether it is a whole model, and not an adapter."""
        return _is_model(self.path)

    def checked(self, base: str | None) -> "Inspection | Checkpoint":
        """What it holds; `base` is what an adapter's config will name as its base, if another.

        All values are read, and all other files opened.

        Raises:
            FormatError: it is neither an adapter nor a model, or not sound.
            UnsupportedError: it names a local path as its base.
            NonFiniteError: a tensor has a NaN or an infinity.
            StorageError: a file cannot be read.
        """
        for path in self.files.values():
            with storage_errors(path):
                path.open("rb").close()
        found = open_checkpoint(self.path) if self.is_model else _checked_adapter(self.path, base)
        if bad := list(_nonfinite(self.files)):
            raise NonFiniteError(f"NaNs or infinities in {listing(bad)}")
        return found


def publishable(path: Path, *, all_files: bool) -> Publishable:
    """What there is to publish.

    Hidden files are left out. With `all_files` others than an adapter's or a model's are sent too.

    Raises:
        FormatError: it is neither an adapter nor a model.
        UnsupportedError: it has a pickle, or other files.
    """
    folder = path if path.is_dir() else path.parent
    own = _own_files(path)
    others = [] if path != folder else _others(folder, own)
    pickles = [name for name in (*own, *others) if name.endswith(_PICKLES)]
    if pickles:
        raise UnsupportedError(
            f"{path}: holds pickles ({listing(pickles)}), which can run code where they are read; "
            f"take them out of the folder"
        )
    if others and not all_files:
        raise UnsupportedError(
            f"{path}: holds files that are none of its own ({listing(others)}); --all sends them"
        )
    names = sorted([*own, *others])
    for name in names:
        check_path(name, str(path))
    left_out = [] if path != folder else [n for n in _all_names(folder) if _is_hidden(n)]
    return Publishable(path, {name: folder / name for name in names}, tuple(left_out))


def _own_files(path: Path) -> list[str]:
    if not path.is_dir():
        parts = tensor_files(LocalFolder(path.parent, str(path.parent)), path.name)
        return sorted({path.name, *parts})
    folder = LocalFolder(path, str(path))
    about = [name for name in folder.names() if name.startswith(_ABOUT)]
    if _is_model(path):
        companions = [name for name in _all_names(path) if is_companion(name)]
        return [*weight_files(folder), *companions]
    return sorted({*adapter_files(folder), *about})


def _is_model(path: Path) -> bool:
    """A folder with a model's config and no adapter's."""
    return (path / "config.json").exists() and not (path / ADAPTER_CONFIG).exists()


def _others(folder: Path, own: list[str]) -> list[str]:
    return [name for name in _all_names(folder) if name not in own and not _is_hidden(name)]


def _all_names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _checked_adapter(path: Path, base: str | None) -> "Inspection":
    from loratools.files.inspecting import inspect

    found = inspect(path)
    wrong = [note.message for note in found.notes if note.severity != "info"]
    if wrong:
        raise FormatError(f"{path}: {wrong[0]}; loratools inspect --check {path} says all")
    named = base or found.adapter.provenance.base
    if named is not None and _is_local(named):
        raise UnsupportedError(
            f"{path}: names {shorten(named)} as its base, which is a path on this machine; "
            f"--base owner/name sends the name on the Hub"
        )
    return found


def _is_local(base: str) -> bool:
    return _HUB_ID.fullmatch(base) is None or base.startswith(".") or Path(base).exists()


def _nonfinite(files: Mapping[str, Path]) -> Iterator[str]:
    for name, path in files.items():
        if name.endswith(".safetensors"):
            file = InputFile(path)
            for tensor in file.read_header().tensors:
                if holds_nonfinite(file, tensor):
                    yield f"{name}: {tensor.name}"
