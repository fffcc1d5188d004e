"""Choose the files of a folder to publish, and refuse bad ones before anything is sent."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from loratools.errors import (
    FormatError,
    NonFiniteError,
    UnsupportedError,
    listing,
    shorten,
)
from loratools.files.beside import is_hidden
from loratools.files.checkpoints import open_checkpoint
from loratools.files.finding import adapter_files, base_files, is_model, tensor_files
from loratools.formats import adapter_configs
from loratools.hub.names import check_path
from loratools.io.checkpoint import Checkpoint
from loratools.io.file import InputFile
from loratools.io.finite import holds_nonfinite
from loratools.io.folder import LocalFolder
from loratools.typed import flag, inspecting, option

if TYPE_CHECKING:
    from loratools.describing.description import Inspection

#: Prefixes of the names of files that tell about an adapter.
_ABOUT = ("README", "LICENSE", "LICENCE", "NOTICE")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@final
@dataclass(frozen=True)
class Publishable:
    """The files to publish, by name, and the names that were left out of their folder.

    `is_model` says whether they are a whole model, and not an adapter; `variant` which of several
    copies of its weights is meant.
    """

    path: Path
    files: Mapping[str, InputFile]
    left_out: tuple[str, ...]
    is_model: bool
    variant: str | None = None

    def checked(self, base: str | None, tell: Callable[[], object]) -> "Inspection | Checkpoint":
        """Check the files, and describe them; `base` replaces the base that an adapter names.

        All values are read, since a NaN can be anywhere. `tell` is called after each tensor; what
        it raises stops the check.

        Raises:
            FormatError: it is neither an adapter nor a model, or not sound.
            UnsupportedError: an adapter names a local path as its base.
            NonFiniteError: a tensor has a NaN or an infinity.
            StorageError: a file cannot be read.
        """
        if self.is_model:
            found: Inspection | Checkpoint = open_checkpoint(self.path, self.variant)
        else:
            found = _checked_adapter(self.path, base)
        if bad := list(_nonfinite(self.files, tell)):
            raise NonFiniteError(f"NaNs or infinities in {listing(bad)}")
        return found


def publishable(path: Path, *, all_files: bool, variant: str | None = None) -> Publishable:
    """Choose and open the files of `path`, a folder or one file, that are to be published.

    Hidden files are left out, and so is an adapter's config beside a whole model, since readers
    would take the model for an adapter. `all_files` adds files that belong to neither.

    Raises:
        FormatError: it is neither an adapter nor a model, or a file is a link, a pipe or a device.
        UnsupportedError: it has a pickle, or without `all_files` files that belong to neither.
        StorageError: a file or a folder cannot be read.
    """
    if not path.is_dir():
        names = tensor_files(LocalFolder(path.parent, str(path.parent)), path.name)
        _check_names(path, {path.name, *names})
        return Publishable(path, _opened(path.parent, {path.name, *names}, path.name), (), False)
    folder = LocalFolder(path, str(path))
    model = is_model(folder)
    if model:
        own = base_files(folder, None, companions=True, variant=variant)
    else:
        own = _adapters_files(folder)
    every = folder.all_names()
    left_out = [n for n in every if is_hidden(n) or (model and n in adapter_configs())]
    others = [name for name in every if name not in {*own, *left_out}]
    _check_names(path, {*own, *others})
    if others and not all_files:
        raise UnsupportedError(
            f"{path}: holds files that are none of its own ({listing(others)})",
            hint=f"{flag('all_files')} sends them",
        )
    return Publishable(path, _opened(path, {*own, *others}), tuple(left_out), model, variant)


def _adapters_files(folder: LocalFolder) -> list[str]:
    about = [name for name in folder.names() if name.startswith(_ABOUT)]
    return [*adapter_files(folder), *about]


def _check_names(path: Path, names: Iterable[str]) -> None:
    if pickles := sorted(name for name in names if name.endswith(_PICKLES)):
        raise UnsupportedError(
            f"{path}: holds pickles ({listing(pickles)}), which can run code where they are read",
            hint="take them out of the folder",
        )
    for name in sorted(names):
        check_path(name, str(path))


def _opened(folder: Path, names: Iterable[str], named: str | None = None) -> dict[str, InputFile]:
    """Open files of a folder, following no link, but for the file that the user `named`.

    Whoever filled the folder may have put links to any file of this machine into it.
    """
    return {
        name: InputFile(folder / name, folder=None if name == named else folder)
        for name in sorted(names)
    }


def _checked_adapter(path: Path, base: str | None) -> "Inspection":
    from loratools.describing.inspect import inspect

    found = inspect(path)
    # Notes on other weights beside it do not count: those are sent only where that is asked for.
    notes = [note for note in found.notes if note not in found.adapter.notes_beside]
    wrong = [note.message for note in notes if note.severity != "info"]
    if wrong:
        raise FormatError(f"{path}: {wrong[0]}", hint=f"{inspecting(str(path))} says all")
    named = base or found.adapter.provenance.base
    if named is not None and _is_local(named):
        raise UnsupportedError(
            f"{path}: names {shorten(named)} as its base, which is a path on this machine",
            hint=f"{option('base', 'owner/name')} sends the name on the Hub",
        )
    return found


def _is_local(base: str) -> bool:
    return _HUB_ID.fullmatch(base) is None or base.startswith(".") or Path(base).exists()


def _nonfinite(files: Mapping[str, InputFile], tell: Callable[[], object]) -> Iterator[str]:
    for name, file in files.items():
        if name.endswith(".safetensors"):
            for tensor in file.read_header().tensors:
                if holds_nonfinite(file, tensor):
                    yield f"{name}: {tensor.name}"
                tell()
