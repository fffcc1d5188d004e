"""Which files belong to the weights beside them, by file name: for a model and for an adapter."""

import re
from collections.abc import Collection, Iterable

from loratools.formats import adapter_configs
from loratools.io.companions import is_tokenizers
from loratools.io.index import is_index

#: The suffixes of files with a model's weights, those for other programs included.
WEIGHT_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".ot",
    ".npz", ".distcp",
)  # fmt: skip
_PROCESSORS = frozenset({
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
})  # fmt: skip
_OF_TRAINING = re.compile(r"trainer_state\.json|events\.out\.tfevents.*|checkpoint-\d+")


def of_adapter(names: Iterable[str]) -> list[str]:
    """The names of the tokenizer and processor files in an adapter's folder, sorted."""
    return sorted(name for name in names if is_tokenizers(name) or name in _PROCESSORS)


def of_model(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split the file names of a model's folder into those that belong to its weights, and the rest.

    The rest are weights, hidden files, records of a training, and adapters: transformers would
    look for the adapter of an `adapter_config.json`. A folder that is left out as a whole is
    named once, in place of its files.
    """
    names = sorted(names)
    configs = adapter_configs()
    adapters = folders_of_adapters(names)
    taken: list[str] = []
    left_out: dict[str, None] = {}
    for name in names:
        folders = [name[:end] for end, letter in enumerate(name) if letter == "/"]
        paths = (p for p in (*folders, name) if p in adapters or _is_left_out(p, configs))
        outer = next(paths, None)
        if outer is None:
            taken.append(name)
        else:
            left_out[outer] = None
    return taken, list(left_out)


def is_hidden(name: str) -> bool:
    """Whether a file is hidden, or in a hidden folder, by its path."""
    return any(part.startswith(".") for part in name.split("/"))


def folders_of_adapters(names: Iterable[str]) -> set[str]:
    """The paths of the folders that contain an adapter's config, found in the paths of files."""
    inside = tuple(f"/{config}" for config in adapter_configs())
    return {name.rpartition("/")[0] for name in names if name.endswith(inside)}


def _is_left_out(path: str, configs: Collection[str]) -> bool:
    """Whether a file or folder does not belong to the weights, by the last part of its path."""
    name = path.rpartition("/")[2]
    return (
        name.startswith(".")
        or name in configs
        or name.endswith((*WEIGHT_SUFFIXES, ".pkl", ".pickle"))
        or is_index(name)
        or _OF_TRAINING.fullmatch(name) is not None
    )
