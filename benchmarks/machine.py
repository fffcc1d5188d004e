"""Bring the machine into the same state before every run: inputs cached, all writes done."""

import importlib.metadata
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

READ_BYTES: Final = 1 << 24
PACKAGES: Final = ("torch", "safetensors", "transformers", "peft")


def memory_bytes() -> int:
    """The size of the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read(path: Path) -> None:
    buffer = bytearray(READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def prepare(inputs: Sequence[Path]) -> None:
    """Read the files of these folders into the page cache, and wait for all writes to disk."""
    for folder in inputs:
        for path in sorted(folder.iterdir()):
            _read(path)
    os.sync()


def seconds_to_sync() -> float:
    """The seconds that the kernel takes to write its dirty pages to disk."""
    begin = time.perf_counter()
    os.sync()
    return time.perf_counter() - begin


def fill_page_cache(ballast: Path) -> None:
    """Read a sparse file of three quarters of the memory; it holds zeros and no disk blocks.

    For virtual machines that hand their free pages back to the host: there the first touch of a
    free page costs a fault on the host, and writing 2.4 GB takes 2 s or 8 s depending on how long
    ago somebody freed memory. Cached pages are not handed back, and are dropped when a run needs
    them, as on any machine that has been up for a while.
    """
    with ballast.open("ab") as file:
        file.truncate(memory_bytes() * 3 // 4)
    _read(ballast)


def describe() -> dict[str, object]:
    """The machine and the versions that figures were measured with, as far as Python knows them."""
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processors": os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "versions": versions,
    }
