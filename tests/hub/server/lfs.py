"""Large files: their pointers in git, the store of their contents, and which paths are large."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

SUFFIXES = re.findall(
    r"\w+",
    "7z arrow bin bz2 ckpt ftz gguf gz h5 joblib mlmodel model msgpack npy npz onnx ot parquet pb "
    "pickle pkl pt pth rar safetensors tar tflite tgz wasm xz zip zst",
)
ATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in SUFFIXES)
LARGE = 10 * 1024 * 1024
POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n"
)


@dataclass(frozen=True)
class Pointer:
    """The pointer that git stores in place of a large file, as git-lfs defines it."""

    sha256: str
    size: int

    def __bytes__(self) -> bytes:
        spec = "version https://git-lfs.github.com/spec/v1"
        return f"{spec}\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @classmethod
    def parse(cls, blob: bytes) -> "Pointer | None":
        match = POINTER.fullmatch(blob)
        return cls(match[1].decode(), int(match[2])) if match else None


class Store:
    """The contents of large files by sha256, in git-lfs's layout, and uploads to be verified."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arriving = 0

    def path(self, sha256: str) -> Path:
        return self.folder / "objects" / sha256[:2] / sha256[2:4] / sha256

    def size(self, sha256: str) -> int | None:
        path = self.path(sha256)
        return path.stat().st_size if path.is_file() else None

    def add(self, data: bytes) -> Pointer:
        pointer = Pointer(hashlib.sha256(data).hexdigest(), len(data))
        arrived = self.arrival()
        arrived.write_bytes(data)
        self.accept(arrived, pointer.sha256)
        return pointer

    def arrival(self) -> Path:
        """The path of a new file for an upload that is not yet verified."""
        self.arriving += 1
        path = self.folder / "tmp" / str(self.arriving)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def accept(self, arrived: Path, sha256: str) -> None:
        path = self.path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrived.replace(path)


def is_large(path: str, size: int, attributes: str) -> bool:
    """Whether a file goes to the store, because of the repository's .gitattributes or its size."""
    return size > 0 and (size > LARGE or matches(path, lfs_patterns(attributes)))


def lfs_patterns(attributes: str) -> list[str]:
    lines = (line.split() for line in attributes.splitlines())
    return [words[0] for words in lines if "filter=lfs" in words[1:]]


def matches(path: str, patterns: list[str]) -> bool:
    """Whether a path matches one of git's patterns; one without a slash matches the file's name."""
    name = path.rpartition("/")[2]
    fits: Callable[[str], bool] = lambda pattern: fnmatchcase(  # noqa: E731
        path if "/" in pattern else name, pattern.lstrip("/")
    )
    return any(map(fits, patterns))
