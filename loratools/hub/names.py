"""`hf://owner/name[@revision][/path]`: a repository on the Hub, or something in it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import final
from urllib.parse import quote, urlsplit

from loratools.errors import HubError, escaped, shorten
from loratools.io.missing import hub_name_of, hub_name_of_page

#: With one slash too: `Path("hf://owner/name")` makes one of two.
_SCHEME = re.compile(r"hf:/{1,2}(?=[^/])")
#: What no name on the Hub begins with, and paths do.
_PATHS = ("/", "./", "../", "~")
_HALF = re.compile(r"[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ENDPOINT, _NUMBERS = "HF_ENDPOINT", ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
#: Limits of a path's parts, in bytes, on all usual file systems; and of the whole path, in
#: characters, which leaves room for the cache's own folders.
_NAME_BYTES = 255
_PATH_LENGTH = 2048
#: Invisible, and allowed: words in Persian and emoji are spelled with them.
_JOINERS = dict.fromkeys(map(ord, "\u200c\u200d"))


def is_hub_name(name: str | Path) -> bool:
    """Whether `name` has the form `hf://…` and so is not a local path.

    >>> is_hub_name("hf://owner/name")
    True
    """
    return _SCHEME.match(str(name)) is not None


def is_commit(revision: str | None) -> bool:
    """Whether a revision is the full hash of a commit, which needs no resolving."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


@final
@dataclass(frozen=True)
class HubName:
    """A repository, a revision (the default branch, where that is None) and a path in it.

    >>> HubName.parse("hf://owner/name@v1/folder")
    HubName(repo='owner/name', revision='v1', path='folder')
    """

    repo: str
    revision: str | None = None
    path: str = ""

    @classmethod
    def parse(cls, name: str | Path) -> "HubName":
        """Parse a name, whose hf:// may be left out; %2F is a slash in a revision.

        Those of refs/pr/N need no %2F.

        A folder `tree` or `blob` of a repository is only read with a revision before it.

        Raises:
            HubError: it is malformed or not the name of a model, or an environment variable of
                the Hub's client has an invalid value.
        """
        _check_variables()
        from huggingface_hub import parse_hf_uri

        address = _SCHEME.sub("", str(name), count=1)
        text = f"hf://{address}"
        if (meant := hub_name_of(address)) is not None:
            raise HubError(f"{shorten(address)}: an address", hint=f"did you mean {meant}?")
        if (meant := hub_name_of_page(address)) is not None:
            raise HubError(
                f"{shorten(text)}: the path of a page of the Hub", hint=f"did you mean {meant}?"
            )
        try:
            found = parse_hf_uri(text)
        except ValueError:
            found = None
        if address.startswith(_PATHS):  # the parser would leave a slash out
            raise HubError(
                f"{shorten(str(name))}: a path, and not a name on the Hub", hint="write OWNER/NAME"
            )
        if found is None and _HALF.fullmatch(address):
            scheme = "hf://" if is_hub_name(name) else ""
            raise HubError(
                f"{shorten(str(name))}: half of a name on the Hub",
                hint=f"write {scheme}OWNER/{shorten(address)}",
            )
        if found is None or found.type != "model":
            shown = f"{shorten(str(name))}:" if address else "an empty name is"
            raise HubError(f"{shown} not of the form hf://owner/name[@revision][/path]")
        path = found.path_in_repo.strip("/")
        for part in filter(None, (path, found.revision)):  # both become paths in a cache
            check_path(part, text)
        return cls(found.id, found.revision, path)

    def __str__(self) -> str:
        """The name in the form that `parse` reads."""
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        return f"hf://{self.repo}{revision}" + (f"/{self.path}" if self.path else "")


def _check_variables() -> None:
    """Refuse values on which the Hub's client would fail when it is imported."""
    for name in _NUMBERS:
        if not os.environ.get(name, "0").strip().isdecimal():
            raise HubError(f"{name}: not a number of seconds")
    endpoint = os.environ.get(_ENDPOINT, "https://huggingface.co")
    try:
        parts = urlsplit(endpoint)
        _ = parts.port  # which may be no number
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        is_address = False
    if not is_address or escaped(endpoint) != endpoint:
        raise HubError(f"{_ENDPOINT}: not an address such as https://huggingface.co")


def check_path(path: str, where: str, *, anywhere: bool = True) -> None:
    """Refuse a path that would lead out of its folder, or cannot be stored, here or `anywhere`.

    Raises:
        HubError: it is absolute, has a part like `..`, invisible characters (control and
            bidirectional ones) or such as a file name cannot have, or is too long for a disk.
    """
    parts = path.split("/")
    seen = path.translate(_JOINERS)
    is_odd = "\\" in path or escaped(seen) != seen
    is_foreign = (anywhere or os.name == "nt") and re.search(r'[:*?"<>|]', path)
    if is_odd or is_foreign or any(part in {"", ".", ".."} for part in parts):
        raise HubError(f"{where}: {shorten(path)!r} is not a plain relative path")
    if max(len(part.encode()) for part in parts) > _NAME_BYTES or len(path) > _PATH_LENGTH:
        raise HubError(f"{where}: {shorten(path)} is too long for the path of a file")


@final
@dataclass(frozen=True)
class HubFile:
    """A file as the Hub lists it.

    `digest` is the SHA-256 of a large file, and git's blob id of a small one; both in hex.
    """

    path: str
    size: int
    digest: str

    @property
    def is_large(self) -> bool:
        """Whether the digest is a SHA-256, which the Hub has for large files only."""
        return len(self.digest) == 64
