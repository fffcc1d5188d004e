"""Writes of large files past the page cache, at the speed of the disk.

To put fresh pages into the page cache can take the kernel longer than the disk takes to write them,
and pushes out what other programs have there. With `O_DIRECT` the disk reads the bytes from our own
memory, and a write ends when they are stored. The address, the position and the length of a write
have to be multiples of the block size. So `OutputFile` writes the largest such part of its data in
this way, and what is left at both ends through the page cache.
"""

import ctypes
import errno
import mmap
import os
import threading

from loratools.errors import OptionError
from loratools.io.platform import AT_ONCE
from loratools.io.stopping import check_stop

#: A multiple of the block size of nearly all disks; the others refuse a write, which then takes the
#: page cache.
_ALIGNMENT = 4096
#: Smaller files are left in the page cache, where whoever reads them next finds them.
_LEAST_FILE = 64 * 2**20
#: For a smaller part the wait for the disk costs more than the page cache.
_LEAST_PART = 2**18
#: Data that lies at another address is copied to a buffer of this size, piece by piece.
PIECE_BYTES = 2 * 2**20
_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP)
_SETTING = "LORATOOLS_DIRECT"

#: A thread's memory for data that will be written, which is used again each time.
_memory = threading.local()


def least_part(fd: int, size: int) -> int | None:
    """The least number of bytes of a new file that are written at once past the page cache.

    It is None where all of its `size` bytes go through the page cache: in small files, and on file
    systems that have no device number of their own, since they are in memory, on a network or on
    top of others. `LORATOOLS_DIRECT=1` asks for direct writes of all that can be written so, and
    `LORATOOLS_DIRECT=0` for none.

    Raises:
        OptionError: `LORATOOLS_DIRECT` has another value.
    """
    setting = os.environ.get(_SETTING, "")
    if setting not in ("", "0", "1"):
        raise OptionError(f"{_SETTING} is 0 or 1, not {setting!r:.60}")
    if setting == "0" or not hasattr(os, "O_DIRECT"):
        return None
    if setting == "1":
        return _ALIGNMENT
    return _LEAST_PART if size >= _LEAST_FILE and os.major(os.fstat(fd).st_dev) else None


def direct_part(position: int, nbytes: int, least: int) -> tuple[int, int]:
    """The part of `nbytes` bytes for `position` in a file that can be written directly.

    It is given by its begin and its end within them; both are 0 if it would be less than `least`.
    """
    begin = -position % _ALIGNMENT
    end = nbytes - (position + nbytes) % _ALIGNMENT
    return (begin, end) if end - begin >= least else (0, 0)


def incomplete(position: int, nbytes: int) -> int:
    """How many of `nbytes` bytes for `position` are left over by the units that they fill."""
    return min(nbytes, (position + nbytes) % _ALIGNMENT)


def write_direct(fd: int, data: memoryview, position: int) -> int:
    """Write data to a file opened with `O_DIRECT`; return the bytes written, fewer if refused.

    The data are a `direct_part` of what is written.
    """
    done = 0
    while done < len(data):
        check_stop()
        try:
            count = os.pwrite(fd, _aligned(data[done : done + AT_ONCE]), position + done)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            break
        done += count  # after a part of a unit, the next write is refused
    return done


def buffer_for(position: int, nbytes: int) -> memoryview:
    """Memory for `nbytes` bytes that can be written to `position` without copying them first.

    It is valid until the same thread asks for another one, or writes data from other memory.
    """
    lead = position % _ALIGNMENT
    memory: mmap.mmap | None = getattr(_memory, "pages", None)
    if memory is None or len(memory) < lead + nbytes:
        # Private and not shared, which Windows has no word for, and where nothing is direct.
        kind = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
        memory = _memory.pages = mmap.mmap(-1, max(PIECE_BYTES, lead + nbytes), **kind)
    return memoryview(memory)[lead : lead + nbytes]


def with_lead(lead: bytes, data: memoryview) -> memoryview | None:
    """`lead` and `data` in one piece of memory, if `data` is a `buffer_for` with room before it.

    The memory before `data` is overwritten. None where `data` lies elsewhere.
    """
    memory: mmap.mmap | None = getattr(_memory, "pages", None)
    if memory is None or data.readonly or not lead:
        return None
    view = memoryview(memory)[: len(lead) + len(data)]
    if len(view) < len(lead) + len(data) or _address(view) + len(lead) != _address(data):
        return None
    view[: len(lead)] = lead
    return view


def _address(data: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(data))


def _aligned(data: memoryview) -> memoryview:
    """The data itself if it begins at an aligned address, else a copy of its first piece."""
    if not data.readonly and _address(data) % _ALIGNMENT == 0:
        return data
    piece = buffer_for(0, min(len(data), PIECE_BYTES))
    piece[:] = data[: len(piece)]
    return piece
