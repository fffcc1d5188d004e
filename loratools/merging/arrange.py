"""Arrange the files of an output: its weight files, their index, and the corrected config."""

import copy
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from loratools.errors import UnsupportedError, shorten
from loratools.files.manifest import MARK
from loratools.files.variants import index_of, stem_of, variant_of
from loratools.io.checkpoint import Checkpoint, Component, Shard, inside
from loratools.io.clones import BLOCK_BYTES
from loratools.io.dtypes import nbytes
from loratools.io.hashes import placeholders
from loratools.io.header import TensorInfo
from loratools.io.json import encode_json
from loratools.io.source import Stored
from loratools.io.writer import Layout, lay_out
from loratools.merging.heads import config_with_head
from loratools.merging.plan import MergePlan, PlannedTensor
from loratools.typed import as_typed


@final
@dataclass(frozen=True)
class PlannedFile:
    """One weight file of the output; `name` is its path in there."""

    name: str
    tensors: tuple[PlannedTensor, ...]
    layout: Layout


def arrange(plan: MergePlan, max_shard_bytes: int | None) -> tuple[PlannedFile, ...]:
    """The output's weight files: the base's, or as many of at most `max_shard_bytes` as needed.

    A tensor larger than the limit has a file of its own. New tensors come last.
    """
    files: list[PlannedFile] = []
    for component in plan.base.components:
        if max_shard_bytes is None:
            groups = _as_in_base(plan, component)
            headers = [_metadata(shard) for shard in component.shards]
        else:
            groups = _resharded(plan, component, max_shard_bytes)
            headers = [_all_metadata(component, plan.base.where)] * len(groups)
        files += (
            PlannedFile(name, tuple(group), _layout(group, metadata, plan.base, component.prefix))
            for (name, group), metadata in zip(groups, headers, strict=True)
        )
    return tuple(files)


def arrange_changed(plan: MergePlan, max_shard_bytes: int | None) -> tuple[PlannedFile, ...]:
    """The files of an overlay: the tensors whose bytes the base does not have, at least one file.

    There are as many files as shards of the base change, or as `max_shard_bytes` requires.
    """
    changed = [tensor for tensor in plan.tensors.values() if not tensor.is_unchanged]
    if max_shard_bytes is None:
        every = (group for c in plan.base.components for _, group in _as_in_base(plan, c))
        kept = ([t for t in tensors if not t.is_unchanged] for tensors in every)
        groups = [tensors for tensors in kept if tensors]
    else:
        groups = _grouped(changed, max_shard_bytes)
    own = plan.base.shards[0].metadata
    metadata = {MARK: "1", **{k: v for k, v in own.items() if k not in placeholders(own)}}
    return tuple(
        PlannedFile(name, tuple(tensors), _layout(tensors, metadata, plan.base))
        for name, tensors in _numbered("overlay", groups or [[]])
    )


def index_files(plan: MergePlan, files: Sequence[PlannedFile]) -> dict[str, bytes]:
    """The contents of the indexes, by their paths: one for each component that needs one."""
    found: dict[str, bytes] = {}
    for component in plan.base.components:
        own = [file for file in files if file.name.rpartition("/")[0] == component.folder]
        if len(own) > 1 or (component.index_name and _is_as_in_base(component, own)):
            found[_index_name(component, own)] = _index(component, own)
    return found


def _is_as_in_base(component: Component, files: Sequence[PlannedFile]) -> bool:
    """Whether a component has the same files in the output as in the base, by their names."""
    return [file.name for file in files] == [shard.name for shard in component.shards]


def _index_name(component: Component, files: Sequence[PlannedFile]) -> str:
    stem = stem_of(component.shards[0].file.path.name)
    # That of a variant in parts with other names may be one that goes with the old names only.
    is_kept = _is_as_in_base(component, files) or variant_of(f"{stem}.safetensors") is None
    if component.index_name is not None and is_kept:
        return component.index_name
    return inside(component.folder, index_of(stem))


def _index(component: Component, files: Sequence[PlannedFile]) -> bytes:
    tensors = [tensor for file in files for tensor in file.tensors]
    metadata = dict(component.index_metadata)
    metadata["total_size"] = sum(nbytes(t.dtype, t.shape) for t in tensors)
    if "total_parameters" in metadata:
        metadata["total_parameters"] = sum(math.prod(tensor.shape) for tensor in tensors)
    weight_map = {
        tensor.name.removeprefix(component.prefix): file.name.rpartition("/")[2]
        for file in files
        for tensor in file.tensors
    }
    return encode_json({"metadata": metadata, "weight_map": weight_map})


def corrected_configs(plan: MergePlan, dtype: str | None) -> dict[str, bytes]:
    """Each `config.json` that the merge changed something in, by its path.

    Besides the dtype, a merge may change in that of a language model whether weights are tied, the
    vocabulary's size, and the head. In those of a pipeline only a dtype that they name changes.
    """
    found: dict[str, bytes] = {}
    for component in plan.base.components:
        if component.config is None:
            continue
        config = copy.deepcopy(dict(component.config))
        if component.folder:
            if dtype is not None:
                _set_dtype(config, dtype, is_top=False)
        else:
            _correct(config, plan, dtype)
        if config != component.config:
            found[inside(component.folder, "config.json")] = encode_json(config)
    return found


def _correct(config: dict[str, Any], plan: MergePlan, dtype: str | None) -> None:
    if plan.head is not None:
        config |= config_with_head(config, plan.head)
    nested = [config, *(v for v in (config.get("text_config"),) if isinstance(v, dict))]
    if plan.untied is not None:
        config["tie_word_embeddings"] = False
        _set_where_present(nested, "tie_word_embeddings", value=False)
    if plan.vocabulary is not None:
        _set_where_present(nested, "vocab_size", value=plan.vocabulary[1])
    if dtype is not None:
        # diffusers' own models have no field for it.
        is_added = "_class_name" not in config
        for fields in nested:
            _set_dtype(fields, dtype, is_top=is_added and fields is config)


def _as_in_base(plan: MergePlan, component: Component) -> list[tuple[str, list[PlannedTensor]]]:
    """The tensors of each of a component's files, by its name; new ones are in the last."""
    new = [
        tensor
        for tensor in plan.tensors.values()
        if not tensor.is_own and plan.base.component_of(tensor.name) is component
    ]
    of_base = plan.of_base
    files = [(s.name, [of_base[stored.name] for stored in s.tensors]) for s in component.shards]
    files[-1][1].extend(new)
    return files


def _resharded(
    plan: MergePlan, component: Component, limit: int
) -> list[tuple[str, list[PlannedTensor]]]:
    of_component = plan.base.component_of
    own = (t for t in plan.tensors.values() if of_component(t.name) is component)
    stem = stem_of(component.shards[0].file.path.name)
    return [
        (inside(component.folder, name), tensors)
        for name, tensors in _numbered(stem, _grouped(own, limit))
    ]


def _metadata(shard: Shard) -> dict[str, str]:
    return {**shard.metadata, **placeholders(shard.metadata)}


def _all_metadata(component: Component, where: str) -> dict[str, str]:
    """The metadata of all files of a component, whose entries may describe single tensors."""
    metadata: dict[str, str] = {}
    for shard in component.shards:
        for key, value in _metadata(shard).items():
            if metadata.setdefault(key, value) != value:
                raise UnsupportedError(
                    f"{where}: the headers of {shard.name} and of a file before it have different "
                    f"values of {shorten(key)!r}, so that their tensors cannot be put into other "
                    f"files",
                    hint=f"merge without {as_typed('max_shard_bytes')}",
                )
    return metadata


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
    tensors: Sequence[PlannedTensor],
    metadata: Mapping[str, str],
    base: Checkpoint,
    prefix: str = "",
) -> Layout:
    """The layout of a file, with a header that lets the file system clone what is unchanged.

    Blocks can be shared only where bytes lie at the same position within a block as in their
    source. Spaces at the end of the header, less than a block of them, bring most of the base's
    bytes there: with the header of the base, to the same place in the file. This is done wherever
    the output is written, so that its bytes are the same on every file system. What an adapter
    or an overlay brings has no say: the output does not tell which of them a tensor came from.
    """
    stored = [(t.name.removeprefix(prefix), t.dtype, t.shape) for t in tensors]
    layout = lay_out(stored, metadata).prefixed(prefix)
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


def _set_where_present(places: Sequence[dict[str, Any]], key: str, *, value: object) -> None:
    for fields in places:
        if key in fields:
            fields[key] = value


def _set_dtype(fields: dict[str, Any], name: str, *, is_top: bool) -> None:
    """Set the dtype, called `torch_dtype` before transformers 5 and `dtype` since."""
    present = [key for key in ("torch_dtype", "dtype") if key in fields]
    for key in present or (["torch_dtype"] if is_top else []):
        fields[key] = name
