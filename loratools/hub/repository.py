"""A repository at one commit: its files with their hashes, cached or read by ranges of bytes."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import final

from loratools.errors import HubError, LoratoolsError, NetworkError
from loratools.hub import client, reading
from loratools.hub.answers import check_distinct, noted_file, typed
from loratools.hub.following import following
from loratools.hub.names import HubFile, HubName, check_path, is_commit
from loratools.hub.token import quoted
from loratools.hub.verified import Verified, digest_like
from loratools.io.failures import storage_errors
from loratools.io.json import json_text, parse_json
from loratools.io.small import read_small, replace_text
from loratools.io.stopping import unfinished
from loratools.running.progress import Progress
from loratools.running.work import Work, working
from loratools.typed import fetching_once

_WORKERS = 8
#: Attempts at a file: one that arrives with another hash is fetched once more.
_DOWNLOADS = 2
#: The most bytes of a listing that we stored, and of a commit that the client's cache has noted.
_LONGEST_TREE, _LONGEST_REFERENCE = 100_000_000, 1000


@final
@dataclass(frozen=True)
class Repository:
    """One commit of a repository; nothing in it can change."""

    repo: str
    commit: str

    @property
    def name(self) -> str:
        """The repository's `hf://` name, with the commit."""
        return str(HubName(self.repo, self.commit))

    @cached_property
    def files(self) -> Mapping[str, HubFile]:
        """Every file by its path; the listing is stored, since a commit does not change.

        Raises:
            HubError, NetworkError: it cannot be listed, or lists what cannot be stored.
        """
        known = _read_tree(self._tree)
        if known is None:
            known = reading.list_files(self.repo, self.commit)
            _write(self._tree, json_text([asdict(file) for file in known]))
        return {file.path: file for file in known}

    def fetch(self, paths: Iterable[str], progress: Progress = None) -> dict[str, Path]:
        """Fetch files into the cache, each verified against its hash; local paths by `paths`.

        `progress`, if it is a callback, is called with the bytes that are here and those in all.

        Raises:
            HubError, NetworkError, StorageError: a file does not arrive as it is listed; what came
                in its place has been deleted.
        """
        files = [self.files[path] for path in paths]
        try:
            check_distinct((file.path for file in files), self.name)
            sizes = {file.path: file.size for file in files}
            # Else the client would leave what it has begun to write in its cache.
            with unfinished(), working(sizes, progress, _WORKERS) as work:
                futures = {file.path: work.begin(self._fetch, file, work) for file in files}
                found = {path: work.result(future) for path, future in futures.items()}
                work.end()
            return found
        except HubError:
            self._forget_tree()
            raise

    def has_here(self, path: str) -> bool:
        """Whether a file is in the cache and known to be verified; offline, whether it is there."""
        cached = reading.cached(self.repo, self.commit, path)
        if cached is None:
            return False
        verified = Verified(_state() / "verified")
        return client.is_offline() or verified.knows(cached, self.files[path].digest)

    def discard(self, paths: Iterable[str]) -> None:
        """Delete files from the cache, and the stored listing, which had their wrong hashes.

        Raises:
            StorageError: one of them cannot be deleted.
        """
        for path in paths:
            cached = reading.cached(self.repo, self.commit, path)
            if cached is not None:
                _delete(cached)
        self._forget_tree()

    def read(self, path: str, begin: int, count: int) -> bytes:
        """Read some bytes of a file, unverified: only the whole file has a hash.

        Raises:
            HubError, NetworkError: the Hub does not send them.
        """
        return reading.read(self.repo, self.commit, path, begin, count)

    def _fetch(self, file: HubFile, work: Work) -> Path:
        """Fetch a file, and note how many of its bytes are in the cache."""
        verified = Verified(_state() / "verified")
        cached = reading.cached(self.repo, self.commit, file.path)
        for _ in range(_DOWNLOADS):  # a wrong file in the cache counts as the first
            path, digest = (cached, None) if cached is not None else self._download(file, work)
            work.complete(file.path)
            if verified.knows(path, file.digest):
                return path
            # The hash from the download may be missing or wrong: see `following`.
            if digest != file.digest:
                digest = digest_like(file.digest, path, work.check)
            if digest == file.digest:
                verified.remember(path, file.digest)
                return path
            _delete(path)
            cached = None
        raise HubError(
            f"{self.name}/{file.path}: what arrived is not what the Hub lists ({file.digest}), "
            f"twice, and was deleted"
        )

    def _download(self, file: HubFile, work: Work) -> tuple[Path, str | None]:
        """Download a file; its path, and its SHA-256 where it could be hashed meanwhile."""
        if not file.is_large:
            return reading.download(self.repo, self.commit, file), None
        # The client writes HASH.XXXXXXXX.incomplete, and renames it.
        told = partial(work.note, file.path)
        with following(_cache(self.repo) / "blobs", f"{file.digest}.*", told) as follower:
            path = reading.download(self.repo, self.commit, file)
        return path, follower.digest_of(path)

    @property
    def _tree(self) -> Path:
        return _state() / "trees" / self.repo.replace("/", "--") / f"{self.commit}.json"

    def _forget_tree(self) -> None:
        """Delete the stored listing: it may be what is wrong, so the next run asks for it anew."""
        with storage_errors(self._tree):
            self._tree.unlink(missing_ok=True)


def resolve(name: HubName) -> Repository:
    """Resolve a name to the commit that it stands for now; offline, to the one noted last.

    Raises:
        HubError: there is no such repository or revision, or it may not be seen.
        NetworkError: the Hub cannot be reached, or offline the name was never resolved.
    """
    if name.revision is not None and is_commit(name.revision):
        return Repository(name.repo, name.revision)
    if name.revision is not None:
        check_path(name.revision, str(name))  # the cache has a file of this name
    reference = _reference(name)
    if client.is_offline():
        if not reference.is_file():
            raise NetworkError(
                f"{name}: offline, and not in the cache",
                hint=fetching_once(),
            )
        commit = read_small(reference, _LONGEST_REFERENCE).decode(errors="replace").strip()
    else:
        commit = reading.head(name)
    if not is_commit(commit):
        raise HubError(f"{name}: resolved to {quoted(commit)!r}, which is no commit")
    if not client.is_offline():
        _write(reference, commit)
    return Repository(name.repo, commit)


def _reference(name: HubName) -> Path:
    """The file in which the client's cache notes the commit that a revision last stood for."""
    return _cache(name.repo) / "refs" / (name.revision or client.DEFAULT_REVISION)


def _cache(repo: str) -> Path:
    """The folder of a repository in the client's cache."""
    return client.cache_folder() / f"models--{repo.replace('/', '--')}"


def _state() -> Path:
    """The folder of our own notes: beside the client's cache, whose layout is not ours."""
    return client.home_folder() / "loratools"


def _read_tree(store: Path) -> list[HubFile] | None:
    """The stored listing; None where none can be read, so that the Hub is asked."""
    try:
        noted = typed(
            parse_json(read_small(store, _LONGEST_TREE), str(store)), list, "the listing", ""
        )
        return [noted_file(fields, str(store)) for fields in noted]
    except LoratoolsError:
        return None


def _write(path: Path, text: str) -> None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text, is_durable=False)  # it only saves asking again


def _delete(link: Path) -> None:
    """Delete a file from the cache: the link in the snapshot, and the blob that it points to."""
    with storage_errors(link):
        blob = link.resolve()
        link.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
