"""PyTorch `.bin` files, read without running what they contain.

Only on request (`--allow-pickle`), with torch's restricted unpickler and on the CPU. That
unpickler was broken twice (CVE-2025-32434, CVE-2026-24747), so an old torch is refused.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from loratools.errors import FormatError, NotAnAdapterError, UnsupportedError
from loratools.io.dtypes import from_torch_name
from loratools.io.file import InputFile
from loratools.io.source import Held, Source

_OLDEST_SAFE_TORCH = (2, 10)


def read_pickle(
    path: Path, sight: Callable[[Iterable[str]], str | None] = lambda keys: None
) -> dict[str, Source]:
    """The tensors of a pickled state dict, in its order; those of a list by their positions.

    `sight` says what a file with such keys is, if it holds more than tensors.

    Raises:
        FormatError: the file is not a pickle, or holds something other than tensors.
        UnsupportedError: this torch is too old to read a pickle safely.
        NotAnAdapterError: it holds more than tensors, and `sight` knows what it is.
        StorageError: the file may not be read.
    """
    import torch

    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _OLDEST_SAFE_TORCH:
        raise UnsupportedError(
            f"{path}: torch {torch.__version__} cannot read a pickle safely",
            hint="2.10 or newer is needed",
        )
    file = InputFile(path)  # raises unless this is a regular file that may be read
    try:
        with warnings.catch_warnings():
            # torch 2.14 warns that it reads sparse tensors slowly, which are refused below.
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # the unpickler checks nothing: broken bytes can raise any error
        refuse_no_pickle(file)
        reason = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
        raise FormatError(
            f"{path}: cannot be read as a pickled state dict: {reason}",
            hint="download it again if it was cut off",
        ) from error
    if isinstance(loaded, list):
        loaded = {str(position): value for position, value in enumerate(loaded)}
    if not isinstance(loaded, dict):
        raise FormatError(
            f"{path}: holds a {type(loaded).__name__}, a dict of named tensors was expected"
        )
    try:
        return {name: _held(path, name, value) for name, value in loaded.items()}
    except FormatError:
        if what := sight([*_keys(loaded)]):
            raise NotAnAdapterError(f"{path}: {what}") from None
        raise


def refuse_no_pickle(file: InputFile) -> None:
    """Refuse a file that is known to be something else than a pickle by its first bytes.

    Raises:
        FormatError: it is.
    """
    known = file.sniffed()
    if known is not None and known.sort != "pickle":
        raise FormatError(f"{file.where}: not a pickle but {known.name}", hint=known.advice)


def _keys(loaded: Mapping[object, object]) -> Iterator[str]:
    """The keys of a dict, and those of the dicts in it after theirs and a dot."""
    for key, value in loaded.items():
        yield str(key)
        if isinstance(value, dict):
            yield from (f"{key}.{inner}" for inner in value)


def _held(path: Path, name: object, value: object) -> Held:
    import torch

    if not isinstance(name, str):
        raise FormatError(f"{path}: has {name!r:.120} for the name of a tensor")
    if not isinstance(value, torch.Tensor):
        raise FormatError(f"{path}: {name} is a {type(value).__name__}, not a tensor")
    if value.layout != torch.strided or value.is_nested or value.is_meta:
        raise FormatError(
            f"{path}: {name} is sparse, nested or without numbers, where an array of "
            f"numbers is expected"
        )
    dtype = str(value.dtype).removeprefix("torch.")
    try:
        return Held(name, value.detach().contiguous(), from_torch_name(dtype))
    except KeyError as error:
        raise FormatError(f"{path}: {name} has the dtype {dtype}") from error
