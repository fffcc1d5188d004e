"""What a folder without weights holds, for the message that it has none."""

import re
from collections.abc import Sequence

from loratools.errors import listing
from loratools.files.pipelines import is_pipeline
from loratools.formats import adapter_configs
from loratools.io.folder import Folder

#: Files from which a training is resumed, and others that it wrote on the way; hidden files.
OF_TRAINING = re.compile(
    r"\.|(optimizer|scheduler|scaler|sampler|dl_state_dict|rng_state|random_states|"
    r"custom_checkpoint|pytorch_model_fsdp|eva_state_dict)[^/]*(/|$)|training_args\.bin$|"
    r"(global_step|checkpoint-)\d+/|(wandb|runs|logs)/|\d+_adapters\.(safetensors|npz)$"
)
_DATA = (".parquet", ".arrow", ".jsonl", ".csv", ".tsv")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def instead_of_adapter(folder: Folder) -> str:
    """What a folder without an adapter is or holds, and what to name, as the end of a message."""
    if inside := sorted({name for c in adapter_configs() for name in folder.folders_with(c)}):
        return f"name the folder of an adapter in it: {_listed(folder, inside)}"
    if is_pipeline(folder):
        return "it is a pipeline of diffusers, which is a base"
    if config := next((c for c in adapter_configs() if c in folder.names()), None):
        return f"it has {config} without the weights; download the weights too"
    return f"{_contents(folder)}; name the folder or the file of an adapter"


def instead_of_base(folder: Folder) -> str:
    """What a folder without a model's weights holds, and what to name."""
    if inside := folder.folders_with("config.json"):
        return f"name the folder of a model in it: {_listed(folder, inside)}"
    if "config.json" in folder.names():
        return "it has config.json without the weights; download the weights too, as safetensors"
    return f"{_contents(folder)}; name the folder or the file of a model"


def _listed(folder: Folder, inside: Sequence[str]) -> str:
    """Folders in a folder, as they are named from where it is."""
    return listing(f"{folder.where}/{name}" for name in inside)


def _contents(folder: Folder) -> str:
    names = folder.names()
    kinds = {
        "a dataset": [name for name in names if name.lower().endswith(_DATA)],
        "the state of a training": [name for name in names if _is_of_training(name)],
        "pictures": [name for name in names if name.lower().endswith(_PICTURES)],
        "a GGUF file, which is made from a model's": [n for n in names if n.endswith(".gguf")],
    }
    for kind, found in kinds.items():
        if found:
            return f"it has {kind} ({listing(found, 3)})"
    shown = [name for name in names if not name.startswith(".")]
    return f"it has {listing(shown, 3)}" if shown else "it has no files"


def _is_of_training(name: str) -> bool:
    return not name.startswith(".") and OF_TRAINING.match(name) is not None
