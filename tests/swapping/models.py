"""Models in which swaps may rewrite files, and what is in them."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

import loratools
from loratools import SwapReport
from tests.e2e.commands import digests
from tests.merged import eighths, pair, write_adapter

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def write_model(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A model of two weight files, with two weights of 6 by 4 in each."""
    folder.mkdir(parents=True)
    weights = {f"{name}.weight": eighths(6, 4).to(dtype) + n for n, name in enumerate("abcd")}
    files = {"m-00001-of-00002.safetensors": "ab", "m-00002-of-00002.safetensors": "cd"}
    for file, names in files.items():
        save_file({f"{n}.weight": weights[f"{n}.weight"] for n in names}, folder / file)
    placed = {f"{name}.weight": file for file, names in files.items() for name in names}
    index = {"metadata": {}, "weight_map": placed}
    (folder / "m.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_update(folder: Path, names: str, seed: int = 0) -> Path:
    """An adapter for these weights of such a model."""
    factors = {k: t for n, name in enumerate(names) for k, t in pair(name, 6, 4, seed + n).items()}
    return write_adapter(folder, factors, target_modules=list(names))


def journals(model: Path) -> list[Path]:
    """The folders in which swaps keep the state of a model."""
    return sorted((model if model.is_dir() else model.parent).glob(".*.loratools-swap"))


def contents(model: Path) -> dict[str, str]:
    """SHA-256 of every file of a model, but for what swaps keep."""
    found = digests(model)
    return {name: digest for name, digest in found.items() if ".loratools-swap/" not in name}


def merged_contents(base: Path, adapters: Iterable[Path], output: Path) -> dict[str, str]:
    """SHA-256 of every file of a base, with the weights that a merge of these adapters writes."""
    loratools.merge(base, list(adapters), output=output)
    made = digests(output)
    weights = {name: digest for name, digest in made.items() if name.endswith(".safetensors")}
    return digests(base) | weights


def names_in(report: SwapReport) -> list[str]:
    """The names of the adapters that are in a model."""
    return [Path(adapter.path).name for adapter in report.adapters]
