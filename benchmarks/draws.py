"""Tensors of the benchmarks' data, drawn and written a block at a time: the same every time.

A tensor's seed is made of its folder and name, so its bytes do not depend on what else is written.
They are the same for one version of torch, which promises no stable random numbers across versions.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, final

import torch
from torch import Tensor

BLOCK: Final = 1 << 22  # values drawn at once: 16 MiB of float32
SEED: Final = "loratools"
STORED_AS: Final = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


class Drawn(Protocol):
    """A tensor that is drawn at random while it is written."""

    @property
    def name(self) -> str:
        """Its key in the file."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the file."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype in the file."""
        ...

    def blocks(self, folder: str) -> Iterator[memoryview]:
        """The tensor's bytes, a block at a time; valid until the next block is drawn."""
        ...


def generator_of(folder: str, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{SEED}/{folder}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def size_in_file(tensor: Drawn) -> int:
    """The size of a tensor in bytes."""
    return math.prod(tensor.shape) * tensor.dtype.itemsize


@final
@dataclass(frozen=True)
class Draw:
    """A tensor of Gaussian values of the given mean and standard deviation."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    std: float
    mean: float = 0.0

    def blocks(self, folder: str) -> Iterator[memoryview]:
        """The tensor's bytes, a block at a time; valid until the next block is drawn."""
        generator = generator_of(folder, self.name)
        count = math.prod(self.shape)
        drawn = torch.empty(min(BLOCK, count))
        stored = torch.empty(drawn.shape, dtype=self.dtype)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            drawn[:size].normal_(self.mean, self.std, generator=generator)
            stored[:size].copy_(drawn[:size])
            yield stored[:size].view(torch.uint8).numpy().data


@final
@dataclass(frozen=True)
class DecayingFactor:
    """One factor of an update whose singular values decay like i^-0.7, as trained ones do.

    Both factors of a module are mixed by one rotation, drawn from the module's name, so that
    neither shows the order of the components.
    """

    module: str
    part: str
    shape: tuple[int, int]
    dtype: torch.dtype
    std: float

    @property
    def name(self) -> str:
        """Its key in the file."""
        return f"{self.module}.{self.part}.weight"

    def blocks(self, folder: str) -> Iterator[memoryview]:
        """The tensor's bytes, in one block."""
        is_up = self.part == "lora_up"
        rank = self.shape[1 if is_up else 0]
        mixed = torch.randn(rank, rank, generator=generator_of(folder, self.module))
        rotation = torch.linalg.qr(mixed).Q
        drawn = torch.randn(self.shape, generator=generator_of(folder, self.name))
        decay = torch.arange(1, rank + 1).float() ** -0.7
        value: Tensor = (drawn * decay) @ rotation if is_up else rotation.T @ drawn
        stored = (value * self.std).to(self.dtype).contiguous()
        yield stored.view(torch.uint8).numpy().reshape(-1).data


def write_safetensors(
    path: Path, tensors: Sequence[Drawn], folder: str, metadata: Mapping[str, str] | None = None
) -> None:
    """Write one file with its tensors in the order of names, as the safetensors library does."""
    header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
    ordered = sorted(tensors, key=lambda tensor: tensor.name)
    offset = 0
    for tensor in ordered:
        header[tensor.name] = {
            "dtype": STORED_AS[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [offset, offset := offset + size_in_file(tensor)],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered:
            for block in tensor.blocks(folder):
                file.write(block)
