"""Find the files in a folder that an adapter or a base is read from."""

from collections.abc import Iterable, Iterator

from loratools.errors import FormatError, listing
from loratools.files.beside import WEIGHT_SUFFIXES, folders_of_adapters, of_adapter, of_model
from loratools.files.checkpoints import weight_files
from loratools.files.contents import OF_TRAINING, instead_of_adapter
from loratools.files.manifest import refuse_overlay
from loratools.files.pipelines import MODEL_INDEX, find_pipeline, is_pipeline
from loratools.formats import adapter_configs, adapter_weights, dialects, is_adapter_file
from loratools.io.checkpoint import inside
from loratools.io.folder import Folder
from loratools.io.index import INDEX_ENDING, is_index, read_index, refuse_part, shard_parts

#: Where `pull` puts the base of an adapter, in the adapter's folder.
BASE_FOLDER = "base"
_PICKLES = (".bin", ".pt", ".pth")
_ARCHIVE = ".npz"
_MODELS = ("model.safetensors", "model.safetensors.index.json")
#: Nobody trains in these formats: such files are converted from others, for other programs.
_CONVERTED = (".gguf", ".onnx")


def is_pickle(name: str) -> bool:
    """Whether a file of this name is a PyTorch pickle, or the index of some."""
    return name.removesuffix(INDEX_ENDING).endswith(_PICKLES)


def is_archive(name: str) -> bool:
    """Whether a file of this name is an archive of numpy arrays."""
    return name.endswith(_ARCHIVE)


def own_names(folder: Folder) -> tuple[str, ...]:
    """The names of the files that belong together in an adapter's or a model's folder.

    If there is a config, the files one folder further down are included. Without a config they
    are not, since the folder may contain anything.

    Raises:
        StorageError: a subfolder cannot be read.
    """
    names = folder.names()
    is_own = config_among(names) is not None or "config.json" in names
    return folder.all_names(depth=1) if is_own else names


def config_among(names: Iterable[str]) -> str | None:
    """The adapter config among these names, if any; of several, that of the first dialect."""
    found = set(names)
    return next((config for config in adapter_configs() if config in found), None)


def is_model(folder: Folder) -> bool:
    """Whether a folder holds a model and not an adapter.

    Its configs decide; if it has a model's and an adapter's, the names of its weight files do.
    """
    names = folder.names()
    has_adapter = config_among(names) is not None and not (
        any(name in names for name in _MODELS) and not any(map(is_adapter_file, names))
    )
    return ("config.json" in names or is_pipeline(folder)) and not has_adapter


def find_weights(folder: Folder) -> str:
    """The name of the adapter's weight file in a folder, or of the index of its files.

    Safetensors files are preferred to archives of arrays, these to pickles, and names that a
    dialect states to others.

    Raises:
        FormatError: there is no such file, several may be it, or parts have no index.
        UnsupportedError: the folder is an overlay of a base.
    """
    refuse_overlay(folder, "an adapter")
    for suffixes in ((".safetensors",), (_ARCHIVE,), _PICKLES):
        found = {key: files for suffix in suffixes for key, files in _by_stem(folder, suffix)}
        known = [key for stem in adapter_weights() for key in found if key[0] == stem]
        if known or len(found) == 1:
            stem, suffix = known[0] if known else next(iter(found))
            return _one(folder, stem, suffix, found[stem, suffix])
        if found:
            files = [file for group in found.values() for file in group]
            raise FormatError(
                f"{folder.where}: several weight files ({listing(files)})",
                hint="name the one to use",
            )
    raise FormatError(
        f"{folder.where}: no adapter file in this folder", hint=f"{instead_of_adapter(folder)}"
    )


def tensor_files(folder: Folder, file: str) -> tuple[str, ...]:
    """The names of the files with the tensors: `file` itself, or the files that it indexes.

    Raises:
        FormatError: the index is malformed, or `file` is one part of several.
        StorageError: the index cannot be read.
    """
    if is_index(file):
        return tuple(read_index(folder, file).shards)
    refuse_part(folder, file)
    return (file,)


def adapter_files(folder: Folder, file: str | None = None) -> list[str]:
    """The names of the files in a folder that an adapter is read from.

    Raises:
        FormatError: the folder has no adapter, or it is not clear which files it is.
    """
    file = file or find_weights(folder)
    wanted = {file, *tensor_files(folder, file), *adapter_configs()}
    names = own_names(folder)
    return sorted({*wanted.intersection(names), *of_adapter(names)})


def base_files(
    folder: Folder, file: str | None, *, companions: bool, variant: str | None = None
) -> list[str]:
    """The names of the files of a base: weights, configs and, with `companions`, its other files.

    Raises:
        FormatError: there are no weights, or it is not clear which they are.
        UnsupportedError: the weights are in a format that cannot be merged into.
    """
    if file is not None and file.endswith(".safetensors"):
        return [file]
    weights = weight_files(folder, variant)
    names = [name for name in folder.all_names() if name not in weights]
    if companions:
        beside = of_model(names)[0]
        beside += find_pipeline(folder, variant).unread if is_pipeline(folder) else ()
    else:
        folders = {name.rpartition("/")[0] for name in weights}
        beside = [
            n for n in (MODEL_INDEX, *(inside(f, "config.json") for f in folders)) if n in names
        ]
    return [*weights, *beside]


def weights_beside(folder: Folder, file: str, *, is_named: bool) -> tuple[str, ...]:
    """The weight files in an adapter's folder and its subfolders that are not part of the adapter.

    Omitted are files from which a training is resumed, the same adapter in other formats or as it
    was earlier, and conversions for other programs; also, in folders of their own, other adapters
    and the base where `pull` puts it. If the user named the file itself (`is_named`) and no config
    is beside it, nothing is returned, since it may lie beside anything.

    Raises:
        FormatError: as for `tensor_files`.
        StorageError: a folder cannot be read.
    """
    names = own_names(folder)
    if is_named and config_among(names) is None:
        return ()
    own = tensor_files(folder, file)
    stems = set(map(common_stem, own))
    others = folders_of_adapters(names)
    if f"{BASE_FOLDER}/config.json" in names:
        others.add(BASE_FOLDER)
    return tuple(
        name
        for name in names
        if name.endswith(WEIGHT_SUFFIXES)
        and not name.endswith(_CONVERTED)
        and common_stem(name) not in stems
        and name.rpartition("/")[0] not in others
        and OF_TRAINING.match(name) is None
    )


def common_stem(name: str) -> str:
    """The part of a file's name that all formats and all parts of one adapter have in common."""
    parts = shard_parts(name)
    return parts[0] if parts else name.rpartition(".")[0]


def _by_stem(folder: Folder, suffix: str) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """Group files by their stem and suffix, which all parts of one adapter have in common."""
    found: dict[str, list[str]] = {}
    for name in folder.names():
        is_beside = suffix in _PICKLES and OF_TRAINING.match(name) is not None
        if name.endswith(suffix) and not is_beside:
            found.setdefault(common_stem(name), []).append(name)
    # An index may be there without its parts: reading it then reports which are missing.
    for stem in adapter_weights():
        if f"{stem}{suffix}{INDEX_ENDING}" in folder.names():
            found.setdefault(stem, [])
    for stem, files in found.items():
        yield (stem, suffix), files


def _one(folder: Folder, stem: str, suffix: str, files: list[str]) -> str:
    """The name of the file if the adapter is whole in it, or of the index of its parts."""
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
            f"{folder.where}: has both {whole} and {index}, and readers differ in which they take",
            hint="name the one to use",
        )
    return index or whole


def _is_only_part(files: list[str]) -> bool:
    """Whether the only file is named as one part of one (`…-00001-of-00001.safetensors`)."""
    parts = shard_parts(files[0])
    return len(files) == 1 and parts is not None and parts[1] == 1


def _index_of(folder: Folder, stem: str, suffix: str, parts: list[str]) -> str | None:
    """The index in the folder: under the usual name or, for parts, one that a dialect states."""
    names = [f"{stem}{suffix}{INDEX_ENDING}"]
    if parts:
        others = (i for d in dialects() if d.weights == f"{stem}.safetensors" for i in d.indexes)
        names += [index for index in others if index.endswith(f"{suffix}{INDEX_ENDING}")]
    return next((name for name in names if name in folder.names()), None)
