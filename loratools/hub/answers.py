"""The Hub's answers as typed values: a wrong type or an impossible value is refused.

huggingface_hub takes whatever comes: a number for a commit, a text for a size. What the functions
here return need not be checked again.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

from loratools.errors import FormatError, HubError, NetworkError, shorten
from loratools.hub.names import HubFile, check_path, is_commit
from loratools.hub.token import quoted
from loratools.io.json import parse_json

T = TypeVar("T")

_LONGEST_SIZE = 2**63 - 1
#: The types of values in JSON, as messages call them.
_JSON: dict[type, str] = {
    dict: "object",
    list: "list",
    str: "text",
    int: "integer",
    float: "fraction",
    bool: "boolean",
    type(None): "null",
}


def parsed(text: bytes, where: str) -> Any:
    """Parse the JSON text of an answer.

    Raises:
        HubError: it is malformed, or nested too deeply.
        NetworkError: it is no JSON at all, but a page of a proxy or a login in between.
    """
    try:
        return parse_json(text, f"{where}: the answer")
    except FormatError as error:
        if text.lstrip()[:1] in {b"{", b"["}:
            raise HubError(str(error)) from None
        raise NetworkError(f"{where}: not the answer of a Hub, which would be JSON") from None


def typed(value: Any, kind: type[T], name: str, where: str) -> T:
    """Return `value` if its type is exactly `kind`; the error message calls it `name`.

    Raises:
        HubError: it is of another type.
    """
    if type(value) is not kind:
        raise HubError(
            f"{where}: not the answer of a Hub: {name} is of type "
            f"{_JSON[type(value)]}, not {_JSON[kind]}"
        )
    return value


def value_in(fields: Any, name: str, kind: type[T], where: str) -> T:
    """The value of the field `name` of a JSON object, if its type is exactly `kind`.

    Raises:
        HubError: it is of another type or missing, or `fields` is no object.
    """
    found = typed(fields, dict, "it", where)
    if name not in found:
        raise HubError(f"{where}: not the answer of a Hub: {name!r} is missing")
    return typed(found[name], kind, repr(name), where)


def commit_in(fields: Any, name: str, where: str) -> str:
    """The full commit hash in the field `name` of a JSON object.

    Raises:
        HubError: it is something else, or is missing.
    """
    commit = value_in(fields, name, str, where)
    if not is_commit(commit):
        raise HubError(f"{where}: {name!r} is {quoted(commit)!r}, which is no commit")
    return commit


def files_of(entries: Iterable[Any], where: str) -> list[HubFile]:
    """The files in the entries of a listing; entries for folders are skipped.

    Raises:
        HubError: a file cannot be stored, is listed twice, or has the path of a folder.
    """
    files = [_file(e, where) for e in entries if value_in(e, "type", str, where) == "file"]
    paths = Counter(file.path for file in files)
    folders = {path[:i] for path in paths for i, letter in enumerate(path) if letter == "/"}
    for path, count in paths.items():
        if count > 1 or path in folders:
            raise HubError(f"{where}: lists {shorten(path)} twice")
    return files


def _file(entry: Any, where: str) -> HubFile:
    path, size = value_in(entry, "path", str, where), value_in(entry, "size", int, where)
    large = entry.get("lfs")  # a large file, which has a SHA-256 in place of git's id
    digest = value_in(entry if large is None else large, "oid", str, where)
    return _checked(HubFile(path, size, digest), 40 if large is None else 64, where)


def noted_file(fields: Any, where: str) -> HubFile:
    """Read a `HubFile` from its fields in a listing that loratools stored.

    Raises:
        HubError: the fields are others, such as those of an earlier version.
    """
    path, size = value_in(fields, "path", str, where), value_in(fields, "size", int, where)
    digest = value_in(fields, "digest", str, where)
    return _checked(HubFile(path, size, digest), 64 if len(digest) == 64 else 40, where)


def _checked(file: HubFile, digits: int, where: str) -> HubFile:
    check_path(file.path, where, anywhere=False)  # images are named by what they show, with ? and :
    is_digest = len(file.digest) == digits and re.fullmatch("[0-9a-f]*", file.digest)
    if not is_digest or not 0 <= file.size <= _LONGEST_SIZE:
        raise HubError(f"{where}: {shorten(file.path)}: listed with a malformed hash or size")
    return file


def check_distinct(paths: Iterable[str], where: str) -> None:
    """Refuse paths that a disk which ignores case or Unicode normalisation stores as one file.

    Raises:
        HubError: two paths differ only in case or normalisation.
    """
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
        if other != path:
            raise HubError(
                f"{where}: {shorten(other)} and {shorten(path)} are one name on some disks"
            )
