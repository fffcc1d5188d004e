"""A file that holds an adapter and the model that it changes, as home-made layers are saved."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from loratools.errors import FormatError
from loratools.formats import base_names
from loratools.io.checkpoint import Checkpoint, Shard


def holds_base(options: Mapping[str, str]) -> bool:
    """Whether options say that an adapter's file holds its base too."""
    return base_names(options) is not None


def without_adapter(found: Checkpoint, options: Mapping[str, str]) -> Checkpoint:
    """The model in such a file: its own tensors alone, under the names of a model without adapter.

    Raises:
        FormatError: a layer of the adapter has no weight in it, or two tensors get the same name.
    """
    names_of = base_names(options)
    assert names_of is not None
    try:
        names = names_of(found.tensors)
    except FormatError as error:
        raise error.within(found.where) from error
    return found.with_shards(lambda shard: _renamed(shard, names))


def adapter_in(path: str | Path, found: Checkpoint) -> str | Path:
    """The path of the adapter in such a file, of which `path` may be the folder."""
    return (
        Path(path) / (found.components[0].index_name or found.shards[0].name)
        if found.is_folder
        else path
    )


def _renamed(shard: Shard, names: Mapping[str, str]) -> Shard:
    kept = (tensor for tensor in shard.tensors if tensor.name in names)
    return replace(shard, tensors=tuple(t._replace(name=names[t.name]) for t in kept))
