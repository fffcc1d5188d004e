"""Fetch an adapter, a base or an overlay from the Hub: into the cache, or a folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from loratools.arguments import checked
from loratools.errors import HubError, counted, shorten
from loratools.files.finding import (
    BASE_FOLDER,
)
from loratools.files.outputs import check_output
from loratools.files.writing import approved
from loratools.hub.names import HubName
from loratools.io.clones import BLOCK_BYTES, bytes_to_write
from loratools.io.file import InputFile
from loratools.io.publish import staged
from loratools.publishing.listed import Listed, base_of, listed
from loratools.running.progress import Progress, shows_progress
from loratools.running.share import Meter, Span
from loratools.showing.parts import Part, human_size
from loratools.showing.shown import Shown

if TYPE_CHECKING:
    from loratools.hub.folder import HubFolder
    from loratools.hub.lock import Lock

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
        progress: called with the bytes that have arrived, and those of all files, a base's
            included; True shows a bar on stderr. What it raises stops the pull at once; only
            files that have arrived whole stay in the cache.
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
    named = _named(name, revision)  # before the client is imported, which may fail
    from loratools.hub.lock import Lock

    held = None if lock is None else Lock.read(Path(lock))
    if output is not None:
        # Before anything is fetched; `_copy` checks again, when inputs and sizes are known.
        check_output(Path(output), [], is_folder=True, needed_bytes=0, overwrite=overwrite)
    wanted = [listed(named, held, variant)]
    if include_base:  # listed before anything large is fetched, so that progress has one total
        wanted.append(listed(base_of(wanted[0], held), held, variant))
    fetched, *bases = _fetched(wanted, held, progress)
    base = bases[0] if bases else None
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


def _fetched(
    parts: Sequence[Listed], lock: "Lock | None", progress: Progress
) -> Iterator[_Fetched]:
    """Fetch one after the other, and tell the progress of all."""
    sizes = [part.nbytes for part in parts]
    whole = Span(Meter(progress, sum(sizes)))
    whole.meter.again()
    for part, span in zip(parts, whole.split(*sizes), strict=True):
        yield _fetch(part, lock, span)
    whole.meter.end()


def _fetch(part: Listed, lock: "Lock | None", span: Span) -> _Fetched:
    from loratools.hub.verified import sha256

    folder = part.source
    local = folder.fetch(part.names, span.tell)
    digests = {}
    for name in part.names:
        file = folder.listed(name)
        digests[name] = file.digest if file.is_large else sha256(local.path / name)
    if lock is not None:
        lock.check(folder.repository, {f"{folder.inside}{n}": d for n, d in digests.items()})
    return _Fetched(folder, local.path, digests)


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
