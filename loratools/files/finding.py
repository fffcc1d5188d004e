"""Which files of a folder an adapter or a base is read from."""

import re
from collections.abc import Iterable, Iterator

from loratools.errors import FormatError, listing
from loratools.files.beside import WEIGHT_SUFFIXES, folders_of_adapters, of_adapter, of_model
from loratools.files.checkpoints import weight_files
from loratools.formats import adapter_configs, adapter_weights, dialects, is_adapter_file
from loratools.io.folder import Folder
from loratools.io.index import INDEX_ENDING, is_index, read_index, refuse_part, shard_parts

#: Where `pull` puts the base of an adapter, in the adapter's folder.
BASE_FOLDER = "base"
_PICKLES = (".bin", ".pt", ".pth")
_MODELS = ("model.safetensors", "model.safetensors.index.json")
#: What a training goes on with, and what it left on its way; and hidden files.
_OF_TRAINING = re.compile(
    r"\.|(optimizer|scheduler|scaler|sampler|dl_state_dict|rng_state|random_states|"
    r"custom_checkpoint|pytorch_model_fsdp|eva_state_dict)[^/]*(/|$)|training_args\.bin$|"
    r"(global_step|checkpoint-)\d+/|(wandb|runs|logs)/|\d+_adapters\.safetensors$"
)
#: Nobody trains in these formats: they are made of other files, for other programs.
_CONVERTED = (".gguf", ".onnx")


def is_pickle(name: str) -> bool:
    """Whether a file of this name is a PyTorch pickle, or the index of some."""
    return name.removesuffix(INDEX_ENDING).endswith(_PICKLES)


def own_names(folder: Folder) -> tuple[str, ...]:
    """The names of the files that belong together in an adapter's folder or a model's.

    With a config those in its folders too; without one it can be a folder of anything.

    Raises:
        StorageError: a folder in it cannot be read.
    """
    names = folder.names()
    is_own = config_among(names) is not None or "config.json" in names
    return folder.all_names(depth=1) if is_own else names


def config_among(names: Iterable[str]) -> str | None:
    """The name of an adapter's config that is among these; the first, if there are several."""
    found = set(names)
    return next((config for config in adapter_configs() if config in found), None)


def is_model(folder: Folder) -> bool:
    """Whether a folder holds a model and not an adapter: by its config, or else by its weights."""
    names = folder.names()
    has_adapter = config_among(names) is not None and not (
        any(name in names for name in _MODELS) and not any(map(is_adapter_file, names))
    )
    return "config.json" in names and not has_adapter


def find_weights(folder: Folder) -> str:
    """The adapter's file in a folder, or the index of its files.

    Safetensors come before pickles, and known names before others.

    Raises:
        FormatError: there is none, or it is not clear which it is, or parts have no index.
    """
    for suffixes in ((".safetensors",), _PICKLES):
        found = {key: files for suffix in suffixes for key, files in _by_stem(folder, suffix)}
        known = [key for stem in adapter_weights() for key in found if key[0] == stem]
        if known or len(found) == 1:
            stem, suffix = known[0] if known else next(iter(found))
            return _one(folder, stem, suffix, found[stem, suffix])
        if found:
            files = [file for group in found.values() for file in group]
            raise FormatError(
                f"{folder.where}: several weight files ({listing(files)}); name the one to use"
            )
    inside = sorted({name for c in adapter_configs() for name in folder.folders_with(c)})
    hint = f"; adapters are in its folders {listing(inside)}" if inside else ""
    raise FormatError(f"{folder.where}: no adapter file in this folder{hint}")


def tensor_files(folder: Folder, file: str) -> tuple[str, ...]:
    """The files that tensors are read from: `file` itself, or those that it is the index of.

    Raises:
        FormatError: it is malformed, or one part of several.
        StorageError: it cannot be read.
    """
    if is_index(file):
        return tuple(read_index(folder, file).shards)
    refuse_part(folder, file)
    return (file,)


def adapter_files(folder: Folder, file: str | None = None) -> list[str]:
    """The names of the files in a folder that an adapter is read from.

    Raises:
        FormatError: it has none, or it is not clear which.
    """
    file = file or find_weights(folder)
    wanted = {file, *tensor_files(folder, file), *adapter_configs()}
    names = own_names(folder)
    return sorted({*wanted.intersection(names), *of_adapter(names)})


def base_files(folder: Folder, file: str | None, *, companions: bool) -> list[str]:
    """The names of the files that make up a base: weights, config, and what lies beside them.

    Raises:
        FormatError: there are no weights, or it is not clear which they are.
        UnsupportedError: they are of a kind that cannot be merged into.
    """
    if file is not None and file.endswith(".safetensors"):
        return [file]
    weights = weight_files(folder)
    names = [name for name in folder.all_names() if name not in weights]
    beside = of_model(names)[0] if companions else {"config.json"}.intersection(names)
    return [*weights, *beside]


def weights_beside(folder: Folder, file: str, *, is_named: bool) -> tuple[str, ...]:
    """Weights in an adapter's folder, and in the folders in it, that are none of its own.

    Not those that only a training goes on with, the same adapter in other formats or as it was
    earlier, or what was converted for other programs; nor, in folders of their own, other adapters
    and the base as `pull` puts it. A file that `is_named` itself, without a config beside it, may
    lie beside anything.

    Raises:
        FormatError: as `tensor_files`.
        StorageError: a folder cannot be read.
    """
    names = own_names(folder)
    if is_named and config_among(names) is None:
        return ()
    own = tensor_files(folder, file)
    stems = set(map(_stem, own))
    others = folders_of_adapters(names)
    if f"{BASE_FOLDER}/config.json" in names:
        others.add(BASE_FOLDER)
    return tuple(
        name
        for name in names
        if name.endswith(WEIGHT_SUFFIXES)
        and not name.endswith(_CONVERTED)
        and _stem(name) not in stems
        and name.rpartition("/")[0] not in others
        and _OF_TRAINING.match(name) is None
    )


def _stem(name: str) -> str:
    """What an adapter's files have in common, in any format and in parts."""
    parts = shard_parts(name)
    return parts[0] if parts else name.rpartition(".")[0]


def _by_stem(folder: Folder, suffix: str) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """Files by their stem and suffix, which parts of one adapter have in common."""
    found: dict[str, list[str]] = {}
    for name in folder.names():
        if name.endswith(suffix):
            found.setdefault(_stem(name), []).append(name)
    # An index may be all that there is, and then says what is missing.
    for stem in adapter_weights():
        if f"{stem}{suffix}{INDEX_ENDING}" in folder.names():
            found.setdefault(stem, [])
    for stem, files in found.items():
        yield (stem, suffix), files


def _one(folder: Folder, stem: str, suffix: str, files: list[str]) -> str:
    """The file that is whole, or the index of those that are not."""
    whole = f"{stem}{suffix}"
    parts = [file for file in files if file != whole]
    index = _index_of(folder, stem, suffix, parts)
    if index is None and parts:
        if _is_only_part(files):
            return files[0]
        raise FormatError(
            f"{folder.where}: {listing(parts)}: parts of an adapter, without the index that says "
            f"what belongs to it"
        )
    if index is not None and whole in files:
        raise FormatError(
            f"{folder.where}: has both {whole} and {index}, and readers differ in which they "
            f"take; name the one to use"
        )
    return index or whole


def _is_only_part(files: list[str]) -> bool:
    """Whether it is one file of one."""
    parts = shard_parts(files[0])
    return len(files) == 1 and parts is not None and parts[1] == 1


def _index_of(folder: Folder, stem: str, suffix: str, parts: list[str]) -> str | None:
    names = [f"{stem}{suffix}{INDEX_ENDING}"]
    if parts:
        others = (i for d in dialects() if d.weights == f"{stem}.safetensors" for i in d.indexes)
        names += [index for index in others if index.endswith(f"{suffix}{INDEX_ENDING}")]
    return next((name for name in names if name in folder.names()), None)
