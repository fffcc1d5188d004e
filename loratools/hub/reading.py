"""Every question to the Hub as one function: commits, listings, files, parts of files."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.utils import get_session, hf_raise_for_status

from loratools.errors import HubError, counted, shorten
from loratools.hub import client
from loratools.hub.answers import commit_in, files_of, parsed, typed, value_in
from loratools.hub.client import asked
from loratools.hub.expected import expecting, expecting_bytes
from loratools.hub.names import HubFile, HubName

#: Limits of a listing: more than the Hub lets a repository have, and more than is worth the memory.
MOST_FILES = 200_000
MOST_PAGES = 2_000


def head(name: HubName) -> str:
    """The commit that the name's revision stands for now.

    Raises:
        HubError: the answer is no commit, or see `hub_errors`.
        NetworkError: see `hub_errors`.
    """
    revision = "" if name.revision is None else f"/revision/{quote(name.revision, safe='')}"
    return commit_in(_answer(name, revision), "sha", str(name))


def is_private(repo: str) -> bool:
    """Whether a repository is private.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """
    return value_in(_answer(HubName(repo), ""), "private", bool, str(HubName(repo)))


def exists(repo: str) -> bool:
    """Whether there is a repository that the token may see, a gated one included.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """

    def answers() -> bool:
        try:
            _get(_address(repo, ""))
        except GatedRepoError:
            return True
        except RepositoryNotFoundError:
            return False
        return True

    return asked(HubName(repo), lambda _: answers())


def list_files(repo: str, commit: str) -> list[HubFile]:
    """Every file of a commit.

    Raises:
        HubError: there is no such commit, or it has a file that cannot be stored.
        NetworkError: see `hub_errors`.
    """
    where = HubName(repo, commit)
    entries = list(_entries(where, f"/tree/{commit}", recursive="true", expand="false"))
    return files_of(entries, str(where))


def cached(repo: str, commit: str, path: str) -> Path | None:
    """The path of a file in the client's cache; None where it is not there."""
    found = try_to_load_from_cache(repo, path, revision=commit)
    return Path(found) if isinstance(found, str) else None


def download(repo: str, commit: str, file: HubFile) -> Path:
    """Download a file into the client's cache: its size is checked, and its hash is not.

    Raises:
        HubError, NetworkError, StorageError: see `hub_errors`.
    """
    where = HubName(repo, commit, file.path)
    with expecting(where, file):
        found = asked(where, lambda hub: hub.hf_hub_download(repo, file.path, revision=commit))
    return Path(found)


def read(repo: str, commit: str, path: str, begin: int, count: int) -> bytes:
    """Read `count` bytes of a file, from byte `begin` on, without downloading the rest.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """
    where = HubName(repo, commit, path)
    address = hf_hub_url(repo, path, revision=commit)
    with expecting_bytes(where, count):
        return asked(where, lambda _: _read(address, begin, count))


def _read(address: str, begin: int, count: int) -> bytes:
    headers = {**client.headers(), "Range": f"bytes={begin}-{begin + count - 1}"}
    with get_session().stream("GET", address, headers=headers) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:
            raise ConnectionError("it sends no parts of files")
        data = response.read()
    if len(data) != count:
        raise ConnectionError(f"{counted(len(data), 'byte')} came where {count} were asked for")
    return data


def history(repo: str, commit: str) -> list[str]:
    """The hashes of a commit and its ancestors, the newest first.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """
    where = HubName(repo, commit)
    return [commit_in(entry, "id", str(where)) for entry in _entries(where, f"/commits/{commit}")]


def tags(repo: str) -> dict[str, str]:
    """The tagged commits, by the names of their tags.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """
    return _refs(repo, "tags", "name")


def proposals(repo: str) -> dict[int, str]:
    """The head commits of all pull requests, by their numbers.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """
    found = _refs(repo, "pullRequests", "ref", include_prs="1")
    numbers = {ref: ref.removeprefix("refs/pr/") for ref in found}
    odd = [ref for ref, number in numbers.items() if not re.fullmatch(r"[0-9]{1,9}", number)]
    if odd:
        raise HubError(f"{HubName(repo)}: {shorten(odd[0])!r} is no pull request")
    return {int(number): found[ref] for ref, number in numbers.items()}


def _refs(repo: str, kind: str, name: str, **query: str) -> dict[str, str]:
    """The commits of all references of a kind, by the field of each that is called `name`."""
    where = HubName(repo)
    found = value_in(_answer(where, "/refs", **query), kind, list, str(where))
    return {
        value_in(ref, name, str, str(where)): commit_in(ref, "targetCommit", str(where))
        for ref in found
    }


def _entries(where: HubName, path: str, **query: str) -> Iterator[Any]:
    """The entries of a listing, page by page.

    Raises:
        HubError: it has too many entries or pages, or a page is no list.
    """
    address, count = _address(where.repo, path, **query), 0
    for _ in range(MOST_PAGES):
        page, following = _ask(where, address)
        entries = typed(page, list, "the listing", str(where))
        count += len(entries)
        if count > MOST_FILES:
            break
        yield from entries
        if following is None:
            return
        address = following
    raise HubError(f"{where}: lists more than {MOST_FILES} entries, or {MOST_PAGES} pages")


def _answer(where: HubName, path: str, **query: str) -> Any:
    answer, _ = _ask(where, _address(where.repo, path, **query))
    return answer


def _ask(where: HubName, address: str) -> tuple[Any, str | None]:
    """The parsed JSON of an answer, and the address of the next page, if any."""
    text, following = asked(where, lambda _: _get(address))
    return parsed(text, str(where)), following


def _get(address: str) -> tuple[bytes, str | None]:
    response = get_session().get(address, headers=client.headers())
    hf_raise_for_status(response)
    link = response.links.get("next", {}).get("url")
    return response.content, None if link is None else str(response.url.join(link))


def _address(repo: str, path: str, **query: str) -> str:
    parameters = f"?{urlencode(query)}" if query else ""
    return f"{constants.ENDPOINT}/api/models/{repo}{path}{parameters}"
