"""File systems for tests: small ones that are mounted, and a stand-in for one that makes clones."""

import contextlib
import errno
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loratools.io.clones import BLOCK_BYTES

_SECTOR_BYTES = 512  # of the kernel's statistics, whatever the device has
#: What `statistics` of a block device counts in its seventh field: the sectors that were written.
_SECTORS_WRITTEN = 6


@dataclass(frozen=True)
class Disk:
    """A file system of its own, and its block device."""

    path: Path
    device: str

    def written(self) -> int:
        """The bytes that the device has been sent so far, with all that waits to be written."""
        os.sync()
        fields = Path(f"/sys/class/block/{self.device}/stat").read_text().split()
        return int(fields[_SECTORS_WRITTEN]) * _SECTOR_BYTES

    def fill(self, left: int) -> None:
        """Take all room but `left` bytes, by a file named `filler`; `empty` gives it back."""
        with (self.path / "filler").open("w+b") as file:
            piece = shutil.disk_usage(self.path).total
            while piece >= BLOCK_BYTES:
                size = os.fstat(file.fileno()).st_size
                try:
                    os.posix_fallocate(file.fileno(), size, piece)
                except OSError:
                    piece //= 2
            file.truncate(max(0, os.fstat(file.fileno()).st_size - left))
        os.sync()

    def empty(self) -> None:
        """Give back what `fill` took; file systems do that a little later by themselves."""
        (self.path / "filler").unlink()
        os.sync()


@contextmanager
def mounted(kind: str, folder: Path, size: int = 400 * 2**20) -> Iterator[Disk]:
    """A new file system in an image that takes no room until it is used; skips where it cannot be.

    xfsprogs make none of less than 300 MB.
    """
    make = shutil.which(f"mkfs.{kind}")
    if os.geteuid() != 0 or make is None:
        pytest.skip(f"mounting {kind} needs root and mkfs.{kind}")
    image, place = folder / f"{kind}.img", folder / kind
    with image.open("wb") as file:
        file.truncate(size)
    place.mkdir()
    subprocess.run([make, "-q", image], check=True, capture_output=True)
    done = subprocess.run(
        ["mount", "-o", "loop", image, place], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"{kind} cannot be mounted: {done.stderr.strip()}")
    try:
        yield Disk(place, _device(place))
    finally:
        # Also if a file there is still open, which a failed test's traceback may keep.
        subprocess.run(["umount", "--lazy", place], check=True)
        image.unlink()


def _device(place: Path) -> str:
    for line in Path("/proc/mounts").read_text().splitlines():
        source, target, *_ = line.split()
        if target == str(place):
            return Path(source).name
    raise AssertionError(f"{place} is not mounted")


class FakeClones:
    """Stands in for `fcntl.ioctl` of a file system that makes clones: copies, and remembers it.

    `ranges` are those that were asked for, `nbytes` counts what was then cloned. Like the kernel it
    takes whole blocks only. With a `number` it fails instead.
    """

    def __init__(self, patch: pytest.MonkeyPatch, number: int | None = None) -> None:
        import fcntl

        self.ranges: list[tuple[int, int, int]] = []
        self.nbytes = 0
        self.number = number
        patch.setattr(fcntl, "ioctl", self)

    def __call__(self, target: int, request: int, argument: bytes, *rest: Any) -> int:
        source, begin, size, offset = struct.unpack("=qQQQ", argument)
        assert request == 0x4020940D
        self.ranges.append((begin, offset, size))
        if self.number is not None:
            raise OSError(self.number, os.strerror(self.number))
        if (begin | offset | size) % BLOCK_BYTES or begin + size > os.fstat(source).st_size:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        assert os.pwrite(target, os.pread(source, size, begin), offset) == size
        self.nbytes += size
        return 0


@contextlib.contextmanager
def cloning(number: int | None = None) -> Iterator[FakeClones]:
    """A `FakeClones` for the duration of a block."""
    with pytest.MonkeyPatch.context() as patch:
        yield FakeClones(patch, number)
