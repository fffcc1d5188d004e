"""What is read of a model that memory cannot hold leaves the page cache; nothing else changes."""

import ctypes
import mmap
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from loratools import ExtractRun, MergeOptions, WriteOptions, inspect, merge, svd_extract
from loratools.io import platform, streaming
from loratools.io.descriptors import _open
from loratools.io.file import InputFile
from loratools.io.streaming import _memory_sizes, stream
from tests.e2e.commands import FIXTURES, PLAIN, SHARDED, SINGLE, SMALL, digests

Hints = list[tuple[int, int, int, int]]


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> Hints:
    """Calls of `posix_fadvise`, each made to do nothing: inode, begin, size and advice."""
    calls: Hints = []

    def advise(fd: int, begin: int, size: int, advice: int) -> None:
        calls.append((os.fstat(fd).st_ino, begin, size, advice))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(platform, "_PAGE_GROUP", 1)  # so that each range is dropped as it is said
    return calls


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_memory_sizes", lambda: iter([10**6, 1000]))


def forgotten(hints: Hints, file: Path) -> set[int]:
    """The bytes of a file that were to be dropped."""
    inode = file.stat().st_ino
    ranges = [h[1:3] for h in hints if h[0] == inode and h[3] == os.POSIX_FADV_DONTNEED]
    return {byte for begin, size in ranges for byte in range(begin, begin + size)}


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


Verb = Callable[[Path], object]
VERBS: dict[str, Verb] = {
    "merge": lambda output: merge(SHARDED, PLAIN, output=output),
    "merge, another dtype": lambda output: merge(
        SHARDED, PLAIN, output=output, options=MergeOptions(dtype="float32")
    ),
    "merge by columns": lambda output: merge(SHARDED, FIXTURES / "adapters/dora", output=output),
    "merge into other shards": lambda output: merge(
        SHARDED, PLAIN, output=output, write=WriteOptions(max_shard_bytes=100_000)
    ),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_all_of_a_base_that_memory_cannot_hold_is_dropped(
    tmp_path: Path, hints: Hints, little_memory: None, verb: Verb
) -> None:
    verb(tmp_path / "output")
    for file in weight_files(SHARDED):
        assert len(forgotten(hints, file)) == file.stat().st_size


def test_each_step_drops_what_it_has_read(
    tmp_path: Path, hints: Hints, little_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not only the end of the merge: nothing of a model may pile up."""
    monkeypatch.setattr(InputFile, "check_unchanged", lambda file: hints.append((0, 0, 0, -1)))
    merge(SHARDED, PLAIN, output=tmp_path / "output")
    steps = hints[: hints.index((0, 0, 0, -1))]
    for file in weight_files(SHARDED):
        header = InputFile(file).read_header()
        assert set(range(header.columns.begins[0], file.stat().st_size)) <= forgotten(steps, file)


def test_no_more_than_a_block_piles_up_within_a_step(
    tmp_path: Path, hints: Hints, little_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several threads have a step each: together they would fill a small memory."""
    piece = 16_384
    monkeypatch.setenv("LORATOOLS_DIRECT", "1")
    monkeypatch.setattr("loratools.io.writer.PIECE_BYTES", piece)
    monkeypatch.setattr("loratools.io.blocks.BLOCK_ELEMENTS", piece // 2)
    read_into, most = InputFile.read_into, dict.fromkeys(weight_files(SHARDED), 0)
    first = {file: InputFile(file).read_header().columns.begins[0] for file in most}

    def read(file: InputFile, buffer: memoryview, offset: int) -> None:
        hints.append((file.path.stat().st_ino, offset, len(buffer), -1))
        read_into(file, buffer, offset)
        if file.path in most:
            held = sum(byte >= first[file.path] for byte in kept(hints, file.path))
            most[file.path] = max(most[file.path], held)

    monkeypatch.setattr(InputFile, "read_into", read)
    merge(SHARDED, PLAIN, output=tmp_path / "output", write=WriteOptions(jobs=1))
    assert all(0 < held <= 2 * piece for held in most.values())


@pytest.mark.parametrize("check", [False, True])
def test_models_that_are_compared_are_dropped_whenever_they_were_read(
    tmp_path: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    """Each of the two fits into memory, but not both."""
    merge(SHARDED, SMALL, output=tmp_path / "tuned")
    size = sum(file.stat().st_size for file in weight_files(SHARDED))
    monkeypatch.setattr(streaming, "_memory_sizes", lambda: iter([2 * size - 1]))
    read_into = InputFile.read_into

    def read(file: InputFile, buffer: memoryview, offset: int) -> None:
        hints.append((file.path.stat().st_ino, offset, len(buffer), -1))
        read_into(file, buffer, offset)

    monkeypatch.setattr(InputFile, "read_into", read)
    svd_extract(
        *(tmp_path / "tuned", SHARDED),
        output=tmp_path / "adapter",
        run=ExtractRun(jobs=1),
        check=check,
    )
    for folder in (tmp_path / "tuned", SHARDED):
        for file in weight_files(folder):
            left = kept(hints, file)
            assert max(left) < InputFile(file).read_header().columns.begins[0]


def kept(hints: Hints, file: Path) -> set[int]:
    """The bytes of a file that were read after they were dropped for the last time."""
    found: set[int] = set()
    for inode, begin, size, advice in hints:
        if inode == file.stat().st_ino and advice == os.POSIX_FADV_DONTNEED:
            found -= set(range(begin, begin + size))
        elif inode == file.stat().st_ino and advice == -1:
            found |= set(range(begin, begin + size))
    return found


def test_norms_of_a_base_leave_nothing_of_it(hints: Hints, little_memory: None) -> None:
    inspect(PLAIN, base=SHARDED, spectrum=True)
    plan = merge(SHARDED, PLAIN, output=None).plan
    for tensor in plan.changed:
        stored = plan.base.tensors[tensor.name]
        assert set(range(stored.begin, stored.end)) <= forgotten(hints, stored.file.path)


def test_a_base_that_fits_is_kept_for_the_next_merge(tmp_path: Path, hints: Hints) -> None:
    merge(SHARDED, PLAIN, output=tmp_path / "output")
    inodes = {file.stat().st_ino for file in weight_files(SHARDED)}
    assert {hint[3] for hint in hints} == {os.POSIX_FADV_SEQUENTIAL}
    assert {hint[0] for hint in hints} == inodes


@pytest.mark.parametrize("how", ["missing", "failing"])
def test_a_system_without_hints_goes_without(
    tmp_path: Path, little_memory: None, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    merge(SHARDED, PLAIN, output=tmp_path / "hinted")

    def advise(*arguments: int) -> None:
        raise OSError(22, "Invalid argument")

    if how == "missing":
        monkeypatch.delattr(os, "posix_fadvise")
    else:
        monkeypatch.setattr(os, "posix_fadvise", advise)
    merge(SHARDED, PLAIN, output=tmp_path / "plain")
    assert digests(tmp_path / "hinted") == digests(tmp_path / "plain")


def test_a_copy_in_another_process_drops_what_it_reads(hints: Hints, little_memory: None) -> None:
    file = InputFile(weight_files(SINGLE)[0])
    stream([file])
    hints.clear()
    copy = pickle.loads(pickle.dumps(file))
    copy.forget(0, 100)
    assert [hint[1:] for hint in hints] == [
        (0, 0, os.POSIX_FADV_SEQUENTIAL),
        (0, 100, os.POSIX_FADV_DONTNEED),
    ]


def test_a_file_that_is_opened_again_is_read_as_before(hints: Hints) -> None:
    file = InputFile(weight_files(SINGLE)[0])
    stream([file])
    with _open.lock:
        file._descriptor.close()
    hints.clear()
    file.read(0, 1)
    assert [hint[3] for hint in hints] == [os.POSIX_FADV_SEQUENTIAL]


def test_two_models_are_compared_with_memory_together(
    hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [InputFile(file) for file in weight_files(SHARDED)]
    sizes = [file.size for file in files]
    for memory, count in ((sum(sizes), 0), (sum(sizes) - 1, 2)):
        monkeypatch.setattr(streaming, "_memory_sizes", lambda memory=memory: iter([memory]))
        hints.clear()
        stream(files)
        for file in files:
            file.forget(0, 1)
        assert sum(hint[3] == os.POSIX_FADV_DONTNEED for hint in hints) == count


# How much memory there is


GROUPS = {
    "none": ("", {}, [2048]),
    "version 2": ("0::/a/b\n", {"a/memory.max": "700", "a/b/memory.max": "max\n"}, [2048, 700]),
    "version 2, the root of a container": ("0::/\n", {"memory.max": "900\n"}, [2048, 900]),
    "version 1": (
        "12:cpu,cpuacct:/x\n4:memory:/x/y\n0::/z\n",
        {"memory/x/y/memory.limit_in_bytes": "500\n", "x/memory.max": "3", "memory.max": "max"},
        [2048, 500],
    ),
    "version 1, a path of the host": (
        "4:memory:/docker/123\n",
        {"memory/memory.limit_in_bytes": "600\n"},
        [2048, 600],
    ),
    "unreadable": ("0::/ü\nnonsense\n", {}, [2048]),
}


@pytest.mark.parametrize(("text", "limits", "expected"), GROUPS.values(), ids=GROUPS)
def test_memory_is_what_is_left_within_all_limits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    limits: dict[str, str],
    expected: list[int],
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:       2 kB\nCached: 7 kB\n")
    (tmp_path / "cgroup").write_text(text)
    for name, limit in limits.items():
        file = tmp_path / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(limit)
    monkeypatch.setattr(streaming, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(streaming, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(streaming, "_GROUP_FOLDERS", tmp_path / "fs")
    assert list(_memory_sizes()) == expected


def test_without_any_figure_memory_is_taken_to_suffice(
    hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_MEMORY", Path("/missing"))
    monkeypatch.setattr(streaming, "_GROUPS", Path("/missing"))
    file = InputFile(weight_files(SINGLE)[0])
    stream([file])
    file.forget(0, 1)
    assert [hint[3] for hint in hints] == [os.POSIX_FADV_SEQUENTIAL]


# The page cache


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, Path]:
    """A base of 20 MB on a disk, and an adapter; skips where the cache is all there is."""
    from tests.hostile.checkpoints import lora, write_adapter, write_safetensors

    shapes = {f"{name}.weight": ("BF16", (1024, 1024)) for name in "abcdefghijq"}
    file = write_safetensors(tmp_path / "base/model.safetensors", shapes)
    adapter = write_adapter(tmp_path / "adapter", lora("q", (1024, 1024)))
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached(file):
        pytest.skip("this file system keeps all pages in memory")
    return tmp_path / "base", adapter


def cached(file: Path) -> int:
    """How many pages of a file are in the page cache."""
    size = file.stat().st_size
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), size) as mapped:
        address = ctypes.c_char.from_buffer(mapped)
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        found = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(address)), size, pages)
        del address
    assert found == 0
    return sum(page & 1 for page in pages)


@pytest.mark.parametrize("direct", ["0", "1"])
def test_the_page_cache_holds_none_of_it_afterwards(
    large: tuple[Path, Path], little_memory: None, monkeypatch: pytest.MonkeyPatch, direct: str
) -> None:
    base, adapter = large
    monkeypatch.setenv("LORATOOLS_DIRECT", direct)
    merge(base, adapter, output=base.parent / "merged")
    assert cached(base / "model.safetensors") < 4
    monkeypatch.setattr(streaming, "_memory_sizes", lambda: iter(()))
    merge(base, adapter, output=base.parent / "again")
    assert cached(base / "model.safetensors") > 5000
    assert digests(base.parent / "merged") == digests(base.parent / "again")
