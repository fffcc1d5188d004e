"""Which files go along with weights, by their names: with a model's, and with an adapter's."""

import re
from collections.abc import Collection, Iterable

from loratools.formats import adapter_configs
from loratools.io.companions import is_tokenizers

#: Of the files that a model's weights come in, here or for other programs.
WEIGHT_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".ot",
    ".npz", ".distcp",
)  # fmt: skip
_PROCESSORS = frozenset({
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
})  # fmt: skip
_OF_TRAINING = re.compile(r"trainer_state\.json|events\.out\.tfevents.*|checkpoint-\d+")


def of_adapter(names: Iterable[str]) -> list[str]:
    """Those of the files of an adapter's folder that go with it: a tokenizer and a processor."""
    return sorted(name for name in names if is_tokenizers(name) or name in _PROCESSORS)


def of_model(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Those of the files of a model's folder that go with its weights; and what does not.

    Left out are weights, hidden files, what tells of a training, and adapters: transformers would
    look for the adapter of an `adapter_config.json`. A folder is left out by its own name.
    """
    names = sorted(names)
    configs = adapter_configs()
    adapters = folders_of_adapters(names)
    taken: list[str] = []
    left_out: dict[str, None] = {}
    for name in names:
        folders = [name[:end] for end, letter in enumerate(name) if letter == "/"]
        paths = (path for path in (*folders, name) if path in adapters or _stays(path, configs))
        outer = next(paths, None)
        if outer is None:
            taken.append(name)
        else:
            left_out[outer] = None
    return taken, list(left_out)


def folders_of_adapters(names: Iterable[str]) -> set[str]:
    """The folders among the paths of files that have the config of an adapter."""
    inside = tuple(f"/{config}" for config in adapter_configs())
    return {name.rpartition("/")[0] for name in names if name.endswith(inside)}


def _stays(path: str, configs: Collection[str]) -> bool:
    """Whether a file or folder does not go with the weights."""
    name = path.rpartition("/")[2]
    return (
        name.startswith(".")
        or name in configs
        or name.endswith((*WEIGHT_SUFFIXES, ".pkl", ".pickle", ".index.json"))
        or _OF_TRAINING.fullmatch(name) is not None
    )
