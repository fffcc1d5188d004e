"""Stores finished factors on disk, so that a run that was killed need not compute them again.

Each part is a file, named by a digest of everything that its bytes depend on. It gets this name
only when it is complete and synced. It also holds a digest of its own bytes, which shows whether it
was damaged later.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from loratools.errors import LoratoolsError
from loratools.io.failures import storage_errors
from loratools.io.file import InputFile
from loratools.io.header import TensorInfo
from loratools.io.json import json_text
from loratools.io.leading_rows import LeadingRows
from loratools.io.source import Stored, as_bytes
from loratools.io.writer import OutputFile, lay_out

if TYPE_CHECKING:
    from torch import Tensor

    from loratools.extracting.difference import Norms
    from loratools.extracting.principal import Principal
    from loratools.lowrank.truncation import TargetSpectrum

_UNFINISHED = ".unfinished"
_DIGEST = "sha256"
_READ_BYTES = 2**20


@final
@dataclass(frozen=True)
class Part:
    """The factors of one target, stored in a file of their own."""

    path: Path

    def up_rows(self, rank: int) -> LeadingRows:
        """The transposed `up` of the best approximation of this rank."""
        return LeadingRows(self.path, self._tensors["rows"], rank)

    def down(self, rank: int) -> LeadingRows:
        """The `down` of the best approximation of this rank."""
        return LeadingRows(self.path, self._tensors["down"], rank)

    def spectrum(self) -> "TargetSpectrum":
        """The singular values and the energy, as a rule for ranks takes them."""
        return self._spectrum

    @cached_property
    def norms(self) -> "Norms":
        """The norms of the target's difference and of its weight."""
        from loratools.extracting.difference import Norms

        return Norms(*self._read("norms").tolist())

    @cached_property
    def unsure(self) -> float:
        """The largest error of the lost energy that `spectrum` states."""
        return self._read("unsure").item()

    @cached_property
    def _tensors(self) -> dict[str, TensorInfo]:
        return {info.name: info for info in InputFile(self.path).read_header().tensors}

    @cached_property
    def _spectrum(self) -> "TargetSpectrum":
        from loratools.lowrank.truncation import TargetSpectrum

        m, n = self._tensors["rows"].shape[1], self._tensors["down"].shape[1]
        return TargetSpectrum(m, n, self._read("values").numpy(), self.norms.change)

    def _read(self, name: str) -> "Tensor":
        return Stored(*self._tensors[name], InputFile(self.path)).read()


@final
class Parts:
    """A folder with the parts of one extraction.

    `inputs` is everything that all parts depend on, as JSON. `damaged` counts the parts that were
    found damaged.
    """

    def __init__(self, folder: Path, inputs: Any) -> None:
        self.folder = folder
        self.damaged = 0
        self._inputs = inputs
        with storage_errors(folder):
            folder.mkdir(exist_ok=True)
            for path in folder.glob(f"*{_UNFINISHED}"):
                path.unlink()

    def find(self, what: Any) -> Part | None:
        """Find the part with this description, if it was finished and is not damaged.

        `what` is everything, as JSON, that this part depends on besides `inputs`. A damaged part is
        counted in `damaged`, and can be stored again.
        """
        path = self._path(what)
        if not path.exists():
            return None
        if _is_whole(path):
            return Part(path)
        self.damaged += 1
        return None

    def store(self, what: Any, principal: "Principal") -> Part:
        """Write a part, and give it its name when it is complete."""
        import torch

        path = self._path(what)
        unfinished = path.with_suffix(_UNFINISHED)
        tensors = {
            "rows": principal.rows.contiguous(),
            "down": principal.down.contiguous(),
            "values": principal.values.contiguous(),
            "norms": torch.tensor(astuple(principal.norms), dtype=torch.float64),
            "unsure": torch.tensor([principal.unsure], dtype=torch.float64),
        }
        dtypes = dict.fromkeys(tensors, "F64") | dict.fromkeys(("rows", "down"), principal.dtype)
        entries = [(name, dtypes[name], tuple(t.shape)) for name, t in sorted(tensors.items())]
        digest = _digest(entries, (as_bytes(tensors[name]) for name, _, _ in entries))
        file = OutputFile(unfinished, lay_out(entries, {_DIGEST: digest}))
        try:
            for name, tensor in tensors.items():
                file.write(name, 0, as_bytes(tensor))
            # Synced before it is renamed: else a crash could leave the name with missing bytes.
            file.sync()
        finally:
            file.close()
        with storage_errors(path):
            unfinished.replace(path)
        return Part(path)

    def _path(self, what: Any) -> Path:
        digest = hashlib.sha256(json_text([self._inputs, what]).encode()).hexdigest()
        return self.folder / f"{digest[:40]}.safetensors"


_Entry = tuple[str, str, tuple[int, ...]]


def _is_whole(path: Path) -> bool:
    """Whether the bytes of a part still have the digest that was stored with them."""
    try:
        file = InputFile(path)
        header = file.read_header()
        tensors = sorted(header.tensors, key=lambda info: info.name)
        entries = [(info.name, info.dtype, info.shape) for info in tensors]
        pieces = (
            memoryview(file.read(begin, min(_READ_BYTES, info.end - begin)))
            for info in tensors
            for begin in range(info.begin, info.end, _READ_BYTES)
        )
        return header.metadata.get(_DIGEST) == _digest(entries, pieces)
    except LoratoolsError:
        return False


def _digest(entries: Sequence[_Entry], pieces: Iterable[memoryview]) -> str:
    """The digest of the names, dtypes and shapes of tensors, and of their bytes in this order."""
    digest = hashlib.sha256(json_text(entries).encode())
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
