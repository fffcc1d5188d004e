"""Fetch an adapter, a base or an overlay from the Hub: into the cache, or a folder."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from loratools.arguments import checked
from loratools.errors import HubError, UnsupportedError, counted, shorten
from loratools.files.finding import (
    BASE_FOLDER,
    adapter_files,
    base_files,
    config_among,
    is_model,
    is_pickle,
)
from loratools.files.manifest import is_overlay, overlay_files
from loratools.files.output_names import check_name
from loratools.files.writing import approved
from loratools.formats import adapter_configs, dialects
from loratools.hub.names import HubName
from loratools.io.clones import BLOCK_BYTES, bytes_to_write
from loratools.io.file import InputFile
from loratools.io.folder import read_json
from loratools.io.publish import check_output, staged
from loratools.running.progress import Progress, shows_progress
from loratools.showing.parts import Part, human_size
from loratools.showing.shown import Shown

if TYPE_CHECKING:
    from loratools.hub.folder import HubFolder
    from loratools.hub.lock import Lock

#: Prefixes of the names of files that tell about an adapter.
_ABOUT = ("README", "LICENSE", "LICENCE", "NOTICE")
_SLACK_BYTES = 2**20


@final
@dataclass(frozen=True, repr=False)
class Pulled(Shown):
    """The result of a pull.

    Attributes:
        name: the name, with its commit.
        commit: the commit, in full.
        folder: the folder on this disk.
        files: the SHA-256 of each file, by its name.
        nbytes: the size of all files in bytes.
        base: the same for the base model, where that was asked for.
    """

    name: str
    commit: str
    folder: str
    files: Mapping[str, str]
    nbytes: int
    base: "Pulled | None" = None

    def shown(self, *, verbose: bool = False) -> Iterator[Part]:
        """The name with its commit, how much there is, and where it is; and the same of a base."""
        yield self.name
        yield f"{counted(len(self.files), 'file')}, {human_size(self.nbytes)}, hashes as listed"
        yield f"in: {self.folder}"
        if self.base is not None:
            yield from self.base.shown()

    def to_json(self) -> dict[str, Any]:
        """The documented object of `pull --json`."""
        return {
            "name": self.name,
            "commit": self.commit,
            "folder": self.folder,
            "bytes": self.nbytes,
            "files": dict(self.files),
            "base": None if self.base is None else self.base.to_json(),
        }


@shows_progress("B")
@checked
def pull(
    name: str,
    *,
    output: str | Path | None = None,
    revision: str | None = None,
    include_base: bool = False,
    lock: str | Path | None = None,
    overwrite: bool = False,
    variant: str | None = None,
    progress: Progress = None,
    approve: Callable[[Pulled], object] | None = None,
) -> Pulled:
    """Fetch the adapter or base that a name on the Hub stands for, verified against listed hashes.

    An adapter's own files are fetched, or an overlay's, or a base's weights, config and tokenizer:
    into the cache of huggingface_hub, and from there into the folder `output`, if given.

    Args:
        name: the name on the Hub: `owner/name`, or `hf://owner/name[@revision][/path]`.
        output: a folder to copy the files to; None leaves them in the cache.
        revision: a branch, a tag or a commit, as after `@` in `name`.
        include_base: fetch the base that the adapter names, too, into the folder `base` in
            `output`.
        lock: keep to the commits and hashes in this file, and add what is new.
        overwrite: replace an output that exists.
        variant: read the weights of a model from its files `model.NAME.safetensors`, such as
            `"fp16"`; `"none"`: from those without a name.
        progress: called with the bytes that have arrived of the files of one repository, and those
            in all; True shows a bar on stderr. What it raises stops the pull.
        approve: called with the report before `output` has its name; if it raises, there is no
            output.

    Example:
        >>> import loratools
        >>> pulled = loratools.pull("owner/name", lock="loratools.lock")  # doctest: +SKIP
        >>> pulled.commit  # doctest: +SKIP
        '1f0c7c3d…'

    Raises:
        HubError: there is no such thing, or it is not what the Hub or the lock file says.
        NetworkError: the Hub cannot be reached.
        LoratoolsError: see `loratools.errors`; nothing is then left in `output`.
    """
    wanted = _named(name, revision)  # before the client is imported, which may fail
    from loratools.hub.lock import Lock

    held = None if lock is None else Lock.read(Path(lock))
    if output is not None:
        # Before anything is fetched; `_copy` checks again, when inputs and sizes are known.
        check_output(Path(output), [], is_folder=True, needed_bytes=0, overwrite=overwrite)
        check_name(Path(output), is_folder=True)
    fetched = _fetch(wanted, held, variant, progress)
    base = _fetch(_base_of(fetched), held, variant, progress) if include_base else None
    if held is not None:
        held.write()
    place = None if output is None else Path(output)
    of_base = None if base is None else _pulled(base, place and place / BASE_FOLDER, None)
    pulled = _pulled(fetched, place, of_base)
    approved(pulled, approve)
    if output is not None:
        parts = {"": fetched} if base is None else {"": fetched, f"{BASE_FOLDER}/": base}
        _copy(parts, Path(output), overwrite=overwrite)
    return pulled


@final
@dataclass(frozen=True)
class _Fetched:
    """A folder on the Hub, its copy in the cache at `path`, and the SHA-256 of fetched files."""

    source: "HubFolder"
    path: Path
    digests: Mapping[str, str]

    @property
    def sizes(self) -> dict[Path, int]:
        return {self.path / name: (self.path / name).stat().st_size for name in self.digests}

    @property
    def nbytes(self) -> int:
        return sum(self.sizes.values())


def _named(name: str, revision: str | None) -> HubName:
    found = HubName.parse(name)
    if revision is None:
        return found
    if found.revision not in {None, revision}:
        raise HubError(f"{found}: another revision than {shorten(revision)}, which was asked for")
    return HubName(found.repo, revision, found.path)


def _fetch(name: HubName, lock: "Lock | None", variant: str | None, progress: Progress) -> _Fetched:
    from loratools.hub.folder import hub_place
    from loratools.hub.verified import sha256

    folder, file = hub_place(lock.pinned(name) if lock is not None else name)
    entries = _wanted(folder, file, variant)
    local = folder.fetch(entries, progress)
    digests = {}
    for entry in entries:
        listed = folder.listed(entry)
        digests[entry] = listed.digest if listed.is_large else sha256(local.path / entry)
    if lock is not None:
        lock.check(folder.repository, {f"{folder.inside}{n}": d for n, d in digests.items()})
    return _Fetched(folder, local.path, digests)


def _wanted(folder: "HubFolder", file: str | None, variant: str | None) -> list[str]:
    names = folder.names()
    about = [name for name in names if name.startswith(_ABOUT)]
    if is_overlay(folder):
        return sorted({*overlay_files(folder), *about})
    is_base = is_model(folder)
    if is_base:
        found = base_files(folder, file, companions=True, variant=variant)
    else:
        found = adapter_files(folder, file)
    pickles = [name for name in found if is_pickle(name)]
    if pickles:
        raise UnsupportedError(
            f"{folder.where}/{shorten(pickles[0])}: a pickle, which can run code when it is "
            f"read, and none is fetched"
        )
    return sorted({*found, *about})


def _base_of(adapter: _Fetched) -> HubName:
    where, config = adapter.source.where, config_among(adapter.digests)
    if config is None:
        wanted = " or ".join(adapter_configs())
        raise HubError(f"{where}: has no {wanted}, which would name its base")
    name, revision = _named_base(config, read_json(InputFile(adapter.path / config)))
    try:
        found = HubName.parse(f"hf://{name}")
    except HubError:
        raise HubError(
            f"{where}/{config}: its base is {shorten(str(name))!r}, which is no owner/name on the "
            f"Hub"
        ) from None
    return HubName(found.repo, revision if isinstance(revision, str) else None)


def _named_base(config: str, fields: Mapping[str, Any]) -> tuple[object, object]:
    """The base's name and revision in a config, in the fields that its dialect has for them."""
    for dialect in dialects():
        name = dialect.base_field
        if dialect.config == config and name is not None and name in fields:
            return fields[name], fields.get(dialect.revision_field or "")
    return None, None


def _copy(parts: Mapping[str, _Fetched], output: Path, *, overwrite: bool) -> None:
    total = sum(fetched.nbytes for fetched in parts.values()) + _SLACK_BYTES
    clonable = {
        file: size // BLOCK_BYTES * BLOCK_BYTES
        for fetched in parts.values()
        for file, size in fetched.sizes.items()
    }
    check_output(
        output,
        [fetched.path for fetched in parts.values()],
        is_folder=True,
        needed_bytes=bytes_to_write(total, clonable, output.parent),
        overwrite=overwrite,
    )
    with staged(output, is_folder=True, overwrite=overwrite) as staging:
        for inside, fetched in parts.items():
            for name in fetched.digests:
                staging.copy_file(
                    inside + name, InputFile(fetched.path / name, folder=fetched.path)
                )
        staging.publish()


def _pulled(fetched: _Fetched, folder: Path | None, base: Pulled | None) -> Pulled:
    return Pulled(
        name=fetched.source.where,
        commit=fetched.source.repository.commit,
        folder=str(folder or fetched.path),
        files=fetched.digests,
        nbytes=fetched.nbytes,
        base=base,
    )
