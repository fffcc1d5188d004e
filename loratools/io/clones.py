"""Clones: ranges of two files that share their blocks on disk, until one of them is written to.

XFS, btrfs, bcachefs and ZFS make them (`FICLONERANGE`), and then write nothing but their own maps.
Only whole blocks can be shared, and only if they lie at the same position within a block in both
files.
"""

import errno
import os
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

#: The block of nearly all file systems that make clones. Padding to a larger one would cost more
#: than it brings.
BLOCK_BYTES = 4096
_FICLONERANGE = 0x4020940D  # `fcntl` has it by name from Python 3.12 on
#: The error codes that say that two files, or these parts of them, cannot share blocks (now).
_NOT_POSSIBLE = (
    *(errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EINVAL, errno.EXDEV),
    *(errno.EPERM, errno.EACCES, errno.ETXTBSY, errno.EAGAIN, errno.EISDIR),
)


def clone_range(source: int, begin: int, target: int, offset: int, size: int) -> tuple[int, int]:
    """Share the whole blocks of a range between two open files, where the file system can.

    Returns the part of the range that is shared now, as the first byte and the one after the last,
    counted from the beginning of the range; two equal numbers if nothing is shared.
    """
    block = _block(source, target)
    first = min(size, -begin % block)
    last = max(first, size - (begin + size) % block)
    if (offset - begin) % block or first == last:
        return 0, 0
    if not _clone(source, begin + first, target, offset + first, last - first):
        return 0, 0
    return first, last


def bytes_to_write(total: int, clonable: Mapping[Path, int], folder: Path) -> int:
    """How many of the `total` bytes of a new output in `folder` need room there.

    `clonable` says how many of them could be clones of which files.
    """
    return total - sum(size for file, size in clonable.items() if size and can_clone(file, folder))


def can_clone(source: Path, folder: Path) -> bool:
    """Whether a new file in `folder` could share blocks with a file; tried in one without a name.

    A file of less than a block has none to share.
    """
    try:
        with (
            source.open("rb") as original,
            open(folder, "w+b", buffering=0, opener=_without_name) as made,
        ):
            fds = original.fileno(), made.fileno()
            return _clone(fds[0], 0, fds[1], 0, _block(*fds))
    except OSError:  # also where a system, or a file system, has no files without a name
        return False


def _without_name(folder: str, flags: int) -> int:
    # On other systems this tries to write to the folder, which fails.
    return os.open(folder, os.O_RDWR | getattr(os, "O_TMPFILE", 0))


def _block(source: int, target: int) -> int:
    """The unit of what can be shared, in bytes; larger than needed, where it is not known."""
    return max(BLOCK_BYTES, os.fstat(source).st_blksize, os.fstat(target).st_blksize)


def _clone(source: int, begin: int, target: int, offset: int, size: int) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    request = getattr(fcntl, "FICLONERANGE", _FICLONERANGE)
    try:
        fcntl.ioctl(target, request, struct.pack("=qQQQ", source, begin, size, offset))
    except OSError as error:
        if error.errno not in _NOT_POSSIBLE:
            raise
        return False
    return True
