"""The names of outputs: a folder is not called like a file of weights, and a file is."""

from pathlib import Path

from loratools.errors import OutputError

#: Suffixes of files of weights, which nobody means as the name of a folder.
_SUFFIXES = {".safetensors", ".sft", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".gguf"}


def check_name(output: Path, *, is_folder: bool) -> None:
    """Refuse a folder with the name of a file of weights, and a file with another name.

    Raises:
        OutputError: the name is that of the other one.
    """
    if is_folder and is_of_weights(output):
        raise OutputError(
            f"{output}: the output is a folder, and this is the name of a file",
            hint=f"name it {output.with_suffix('')}",
        )
    if not (is_folder or is_safetensors(output)):
        name = output.with_suffix("") if is_of_weights(output) else output
        raise OutputError(
            f"{output}: the output is a safetensors file", hint=f"name it {name}.safetensors"
        )


def says_folder(output: Path) -> bool:
    """Whether an output that may be a folder or a safetensors file is a folder, by its name.

    Raises:
        OutputError: the name is that of another file of weights.
    """
    if is_of_weights(output) and not is_safetensors(output):
        folder = output.with_suffix("")
        raise OutputError(
            f"{output}: the output is a folder or a safetensors file",
            hint=f"name it {folder} or {folder}.safetensors",
        )
    return not is_safetensors(output)


def is_safetensors(path: Path) -> bool:
    """Whether a path ends as safetensors files do; programs that read them heed the case."""
    return path.suffix == ".safetensors"


def is_of_weights(path: Path) -> bool:
    """Whether a path ends as files of weights do."""
    return path.suffix.lower() in _SUFFIXES
