"""What is asked of the Hub: commits, listings, files, parts of files."""

import re
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url, try_to_load_from_cache
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from loratools.errors import HubError, shorten
from loratools.hub.client import asked
from loratools.hub.expected import expecting
from loratools.hub.names import HubFile, HubName, check_path


def head(name: HubName) -> str:
    """The commit that a revision stands for now, as the Hub says it.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """
    return asked(name, lambda hub: hub.repo_info(name.repo, revision=name.revision)).sha or ""


def exists(repo: str) -> bool:
    """Whether there is such a repository, for all that the token may see.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """
    return asked(HubName(repo), lambda hub: hub.repo_exists(repo))


def list_files(repo: str, commit: str) -> list[HubFile]:
    """Every file of a commit.

    Raises:
        HubError: there is no such commit, or it lists what cannot be stored.
        NetworkError: see `hub_errors`.
    """
    where = HubName(repo, commit)

    def listed(hub: HfApi) -> list[HubFile]:
        entries = hub.list_repo_tree(repo, recursive=True, revision=commit)
        return [_listed(entry, str(where)) for entry in entries if isinstance(entry, RepoFile)]

    return asked(where, listed)


def _listed(entry: RepoFile, where: str) -> HubFile:
    check_path(entry.path, where)
    digest, length = (entry.lfs.sha256, 64) if entry.lfs is not None else (entry.blob_id, 40)
    if not re.fullmatch(f"[0-9a-f]{{{length}}}", digest) or entry.size < 0:
        raise HubError(f"{where}: {shorten(entry.path)}: listed with a malformed hash or size")
    return HubFile(entry.path, entry.size, digest)


def cached(repo: str, commit: str, path: str) -> Path | None:
    """Where the cache has a file; None where it has not."""
    found = try_to_load_from_cache(repo, path, revision=commit)
    return Path(found) if isinstance(found, str) else None


def download(repo: str, commit: str, file: HubFile) -> Path:
    """A file in the cache; its size has been checked, and not its hash.

    Raises:
        HubError, NetworkError, StorageError: see `hub_errors`.
    """
    where = HubName(repo, commit, file.path)
    with expecting(where, file.digest):
        found = asked(where, lambda hub: hub.hf_hub_download(repo, file.path, revision=commit))
    return Path(found)


def read(repo: str, commit: str, path: str, begin: int, count: int) -> bytes:
    """`count` bytes of a file, from `begin` on.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """
    where = HubName(repo, commit, path)
    return asked(where, lambda _: _read(repo, commit, path, begin, count))


def _read(repo: str, commit: str, path: str, begin: int, count: int) -> bytes:
    headers = {
        **build_hf_headers(library_name="loratools"),
        "Range": f"bytes={begin}-{begin + count - 1}",
        "Accept-Encoding": "identity",
    }
    data = bytearray()
    with get_session().stream("GET", hf_hub_url(repo, path, revision=commit), headers=headers) as r:
        hf_raise_for_status(r)
        if r.status_code != 206:
            raise ConnectionError("it sends no parts of files")
        for chunk in r.iter_bytes():
            data += chunk
            if len(data) > count:
                break
    if len(data) != count:
        raise ConnectionError(f"{len(data)} bytes came where {count} were asked for")
    return bytes(data)


def history(repo: str, commit: str) -> list[str]:
    """The commit and those before it, the newest first.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """
    found = asked(HubName(repo, commit), lambda hub: hub.list_repo_commits(repo, revision=commit))
    return [entry.commit_id for entry in found]


def tags(repo: str) -> dict[str, str]:
    """The commits that have tags, by the tags.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """
    refs = asked(HubName(repo), lambda hub: hub.list_repo_refs(repo))
    return {ref.name: ref.target_commit for ref in refs.tags}


def proposals(repo: str) -> dict[int, str]:
    """The heads of the pull requests, by their numbers.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """
    refs = asked(HubName(repo), lambda hub: hub.list_repo_refs(repo, include_pull_requests=True))
    return {int(r.ref.rpartition("/")[2]): r.target_commit for r in refs.pull_requests or ()}
