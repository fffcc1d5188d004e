"""Arrange the files of an output: its weight files, their index, and the corrected config."""

import copy
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from loratools.files.manifest import MARK
from loratools.io.checkpoint import INDEX_SUFFIX, Checkpoint
from loratools.io.clones import BLOCK_BYTES
from loratools.io.dtypes import nbytes
from loratools.io.header import TensorInfo
from loratools.io.json import encode_json
from loratools.io.source import Stored
from loratools.io.writer import Layout, lay_out
from loratools.merging.heads import config_with_head
from loratools.merging.plan import MergePlan, PlannedTensor


@final
@dataclass(frozen=True)
class PlannedFile:
    """One weight file of the output."""

    name: str
    tensors: tuple[PlannedTensor, ...]
    layout: Layout


def arrange(plan: MergePlan, max_shard_bytes: int | None) -> tuple[PlannedFile, ...]:
    """The output's weight files: the base's, or as many of at most `max_shard_bytes` as needed.

    A tensor larger than the limit has a file of its own. New tensors come last.
    """
    groups = _as_in_base(plan) if max_shard_bytes is None else _resharded(plan, max_shard_bytes)
    metadata = plan.base.shards[0].metadata
    return tuple(
        PlannedFile(name, tuple(tensors), _layout(tensors, metadata, plan.base))
        for name, tensors in groups
    )


def arrange_changed(plan: MergePlan, max_shard_bytes: int | None) -> tuple[PlannedFile, ...]:
    """The files of an overlay: the tensors whose bytes the base does not have, at least one file.

    There are as many files as shards of the base change, or as `max_shard_bytes` requires.
    """
    changed = [tensor for tensor in plan.tensors.values() if not tensor.is_unchanged]
    if max_shard_bytes is None:
        kept = ([t for t in tensors if not t.is_unchanged] for _, tensors in _as_in_base(plan))
        groups = [tensors for tensors in kept if tensors]
    else:
        groups = _grouped(changed, max_shard_bytes)
    metadata = {MARK: "1", **plan.base.shards[0].metadata}
    return tuple(
        PlannedFile(name, tuple(tensors), _layout(tensors, metadata, plan.base))
        for name, tensors in _numbered("overlay", groups or [[]])
    )


def index_file(plan: MergePlan, files: Sequence[PlannedFile]) -> tuple[str, bytes] | None:
    """The name and content of the index; None for an output of one file that needs none."""
    if len(files) == 1 and plan.base.index_name is None:
        return None
    if len(files) == 1 and files[0].name != plan.base.shards[0].name:
        return None
    tensors = [tensor for file in files for tensor in file.tensors]
    metadata = dict(plan.base.index_metadata)
    metadata["total_size"] = sum(nbytes(t.dtype, t.shape) for t in tensors)
    if "total_parameters" in metadata:
        metadata["total_parameters"] = sum(math.prod(tensor.shape) for tensor in tensors)
    weight_map = {tensor.name: file.name for file in files for tensor in file.tensors}
    name = plan.base.index_name or f"{_stem(plan)}{INDEX_SUFFIX}"
    return name, encode_json({"metadata": metadata, "weight_map": weight_map})


def corrected_config(plan: MergePlan, dtype: str | None) -> bytes | None:
    """`config.json` with what the merge changed; None if it changed nothing.

    A merge may change whether weights are tied, the vocabulary's size, the head, and the dtype.
    """
    if plan.base.config is None:
        return None
    config = copy.deepcopy(dict(plan.base.config))
    if plan.head is not None:
        config = config_with_head(config, plan.head)
    nested = [config, *(v for v in (config.get("text_config"),) if isinstance(v, dict))]
    if plan.untied is not None:
        config["tie_word_embeddings"] = False
        _set_where_present(nested, "tie_word_embeddings", value=False)
    if plan.vocabulary is not None:
        _set_where_present(nested, "vocab_size", value=plan.vocabulary[1])
    if dtype is not None:
        for fields in nested:
            _set_dtype(fields, dtype, is_top=fields is config)
    return None if config == plan.base.config else encode_json(config)


def _as_in_base(plan: MergePlan) -> Iterator[tuple[str, list[PlannedTensor]]]:
    new = [tensor for tensor in plan.tensors.values() if not tensor.is_own]
    of_base = plan.of_base
    for number, shard in enumerate(plan.base.shards):
        tensors = [of_base[stored.name] for stored in shard.tensors]
        is_last = number == len(plan.base.shards) - 1
        yield shard.name, tensors + (new if is_last else [])


def _resharded(plan: MergePlan, limit: int) -> Iterator[tuple[str, list[PlannedTensor]]]:
    return _numbered(_stem(plan), _grouped(plan.tensors.values(), limit))


def _grouped(tensors: Iterable[PlannedTensor], limit: int) -> list[list[PlannedTensor]]:
    groups: list[list[PlannedTensor]] = []
    size = limit + 1  # so that the first tensor begins a group
    for tensor in tensors:
        tensor_bytes = nbytes(tensor.dtype, tensor.shape)
        if size + tensor_bytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor_bytes
    return groups


def _numbered(
    stem: str, groups: Sequence[list[PlannedTensor]]
) -> Iterator[tuple[str, list[PlannedTensor]]]:
    """Each group with the name of its file."""
    total = len(groups)
    for number, group in enumerate(groups, start=1):
        suffix = f"-{number:05d}-of-{total:05d}" if total > 1 else ""
        yield f"{stem}{suffix}.safetensors", group


def clonable_bytes(files: Sequence[PlannedFile]) -> dict[Path, int]:
    """How many bytes of each input the output could share with it, as whole blocks of it."""
    sizes: Counter[Path] = Counter()
    for file in files:
        for tensor in file.tensors:
            source = tensor.origin
            if not tensor.is_copied or not isinstance(source, Stored):
                continue
            if not _shift(source, file.layout.tensors[tensor.name]):
                # The first and the last block may hold bytes of other tensors.
                whole = source.nbytes // BLOCK_BYTES - 1
                sizes[source.file.path] += max(0, whole) * BLOCK_BYTES
    return dict(sizes)


def _layout(
    tensors: Sequence[PlannedTensor], metadata: Mapping[str, str], base: Checkpoint
) -> Layout:
    """The layout of a file, with a header that lets the file system clone what is unchanged.

    Blocks can be shared only where bytes lie at the same position within a block as in their
    source. Spaces at the end of the header, less than a block of them, bring most of the base's
    bytes there: with the header of the base, to the same place in the file. This is done wherever
    the output is written, so that its bytes are the same on every file system. What an adapter
    or an overlay brings has no say: the output does not tell which of them a tensor came from.
    """
    layout = lay_out([(t.name, t.dtype, t.shape) for t in tensors], metadata)
    of_base = {shard.file for shard in base.shards}
    gains: Counter[int] = Counter()
    for tensor in tensors:
        source = tensor.base
        if tensor.is_unchanged and source is not None and source.file in of_base:
            gains[_shift(source, layout.tensors[tensor.name])] += source.nbytes
    # Readers that map a file want its data to begin at a multiple of 8, as they always do here.
    padding = max((count for count in gains if not count % 8), key=gains.__getitem__, default=0)
    return layout.padded(padding) if padding else layout


def _shift(source: Stored, place: TensorInfo) -> int:
    """How many bytes `place` is before the position that `source` has within a block."""
    return (source.begin - place.begin) % BLOCK_BYTES


def _stem(plan: MergePlan) -> str:
    name = plan.base.shards[0].name.removesuffix(".safetensors")
    return re.sub(r"-\d+-of-\d+$", "", name)


def _set_where_present(places: Sequence[dict[str, Any]], key: str, *, value: object) -> None:
    for fields in places:
        if key in fields:
            fields[key] = value


def _set_dtype(fields: dict[str, Any], name: str, *, is_top: bool) -> None:
    """Set the dtype, called `torch_dtype` before transformers 5 and `dtype` since."""
    present = [key for key in ("torch_dtype", "dtype") if key in fields]
    for key in present or (["torch_dtype"] if is_top else []):
        fields[key] = name
