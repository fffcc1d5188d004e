"""Reading whole models: the kernel reads ahead, and keeps none of one that memory cannot hold.

No part of such a model would still be in the page cache for a second pass. What is kept of it
until then pushes out files of other programs.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from loratools.io.file import InputFile

_MEMORY: Final = Path("/proc/meminfo")
_GROUPS: Final = Path("/proc/self/cgroup")
_GROUP_FOLDERS: Final = Path("/sys/fs/cgroup")
#: The folder of a hierarchy of control groups, and the file with a group's limit: by the
#: controllers that /proc/self/cgroup names for it, none in version 2.
_LIMITS: Final = {"": ("", "memory.max"), "memory": ("memory", "memory.limit_in_bytes")}


def stream(files: Sequence[InputFile]) -> None:
    """Say that these files will be read from one end to the other, and how large they are together.

    If that is more than memory holds, what `InputFile.forget` is told of leaves the page cache.
    """
    is_large = sum(file.size for file in files) > min(_memory_sizes(), default=math.inf)
    for file in files:
        file.stream(keep=not is_large)


def _memory_sizes() -> Iterator[int]:
    """The memory that is left on this machine, and the limits of all groups of this process."""
    if found := re.search(r"^MemAvailable: +(\d+) kB$", _text(_MEMORY), re.MULTILINE):
        yield int(found[1]) * 1024
    for controllers, path in re.findall(r"^\d+:(.*?):/(.*)$", _text(_GROUPS), re.MULTILINE):
        if controllers not in _LIMITS:
            continue
        root, name = _LIMITS[controllers]
        group = _GROUP_FOLDERS / root / path
        # In a container the path may be the host's, of which only the root is there.
        for folder in (group, *group.parents):
            limit = _text(folder / name).strip()
            if limit.isdecimal():
                yield int(limit)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
