"""Writes small bases and adapters to disk, and merges them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import loratools
from loratools.merging.report import MergeReport

PREFIX = "base_model.model."


def write_base(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> Path:
    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_adapter(folder: Path, tensors: Mapping[str, Tensor], **config: Any) -> Path:
    """Write a PEFT adapter, of rank 2 and scaling 1/2 unless `config` has other fields."""
    folder.mkdir(parents=True)
    prefixed = {PREFIX + name: tensor for name, tensor in tensors.items()}
    save_file(prefixed, folder / "adapter_model.safetensors", {"format": "pt"})
    fields = {"peft_type": "LORA", "r": 2, "lora_alpha": 1, **config}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Limit the number of open files of this process, as `ulimit -n` does, to `count`."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def at_most_more(count: int) -> Iterator[None]:
    """Limit the files that this process opens besides those that are open, by other tests too."""
    highest = max(int(path.name) for path in Path("/dev/fd").iterdir())
    with at_most(highest + 1 + count):
        yield


def pair(module: str, rows: int, columns: int, seed: int = 0, rank: int = 2) -> dict[str, Tensor]:
    """The factors of a module in PEFT's names: multiples of 1/8, so that sums are exact."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{module}.lora_A.weight": eighths(rank, columns, generator=generator),
        f"{module}.lora_B.weight": eighths(rows, rank, generator=generator),
    }


def update(factors: Mapping[str, Tensor], scaling: float = 0.5) -> Tensor:
    """The product `scaling * B @ A` of a pair of factors."""
    down, up = factors.values()
    return scaling * up.flatten(1) @ down.flatten(1)


def eighths(*shape: int, generator: torch.Generator | None = None) -> Tensor:
    generator = generator or torch.Generator().manual_seed(sum(shape))
    return torch.randint(-16, 17, shape, generator=generator) / 8


def merged(
    base: Path, *adapters: Path, output: Path | None = None, **arguments: Any
) -> tuple[dict[str, Tensor], MergeReport]:
    """Merge, and return the tensors of the merged model and the report."""
    output = output or base.parent / "merged"
    report = loratools.merge(base, adapters, output=output, **arguments)
    files = sorted(output.glob("*.safetensors")) if output.is_dir() else [output]
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    return tensors, report


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    fields: dict[str, Any] = json.loads(path.read_text())
    return fields


def config_of(folder: Path) -> dict[str, Any]:
    return read_json(folder / "config.json")
