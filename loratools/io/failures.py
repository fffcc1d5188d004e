"""Errors of the operating system as errors of ours, which name the path and what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from loratools.errors import LoratoolsError, StorageError

#: What to do about errors of the system that have one remedy.
_REMEDIES = {
    errno.ENOSPC: "; make room, or name an output on another disk",
    errno.EDQUOT: "; make room, or name an output on another disk",
    errno.EROFS: "; name an output on another disk",
    errno.EACCES: "; change its permissions, or name another path",
    errno.EFBIG: "; raise the limit on files (ulimit -f), or name an output on another disk",
    errno.EMFILE: "; raise the limit on open files, as with ulimit -n",
}


@contextmanager
def storage_errors(path: object) -> Iterator[None]:
    """Turn an `OSError` into a `StorageError` that names the path."""
    try:
        yield
    except OSError as error:
        hint = _REMEDIES.get(error.errno or 0, "")
        what = f"{path}: {(error.strerror or str(error)).lower()}{hint}"
        raise StorageError(what, file=path) from error


#: The system's answers to a path at which there is nothing, or can be nothing: too long, say.
_NOTHING_THERE = (
    errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL,
)  # fmt: skip


@contextmanager
def path_errors(path: object, kind: type[LoratoolsError]) -> Iterator[None]:
    """As `storage_errors`, but raise a `kind` where the path leads to nothing, a user's mistake."""
    with storage_errors(path):
        try:
            yield
        except OSError as error:
            if error.errno not in _NOTHING_THERE:
                raise
            what = f"{path}: {(error.strerror or str(error)).lower()}"
            raise kind(what, file=path) from error
        except ValueError as error:
            # Python's own, of a NUL or of half a character in a path.
            if "null" not in str(error) and not isinstance(error, UnicodeEncodeError):
                raise
            raise kind(f"{path}: no path has such a name ({error})", file=path) from error
