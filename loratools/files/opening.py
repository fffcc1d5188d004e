"""From a path to an adapter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loratools.adapter import Adapter
from loratools.errors import FormatError, UnsupportedError, listing, storage_errors
from loratools.formats import DecodeOptions, decode
from loratools.io.bundle import Bundle
from loratools.io.checkpoint import read_json_file
from loratools.io.file import InputFile
from loratools.io.source import Source, Stored

_CONFIG = "adapter_config.json"
_PREFERRED = ("adapter_model", "pytorch_lora_weights", "adapters")
_PICKLES = (".bin", ".pt", ".pth")
#: What a tokenizer consists of, by the names transformers gives to it.
TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


def open_adapter(
    path: str | Path,
    *,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    options: DecodeOptions | None = None,
) -> Adapter:
    """The adapter in a folder or file; tensors are read when they are needed.

    `config` names its `adapter_config.json` where that is not beside it. A PyTorch pickle is read
    only with `allow_pickle`, and never because a safetensors file is missing or broken.

    Raises:
        FormatError: a file is missing or malformed.
        UnsupportedError: the kind is not supported, or it is a pickle and that is not allowed.
        StorageError: a file cannot be read.
    """
    with storage_errors(path):
        return decode(_read_bundle(Path(path), config, allow_pickle=allow_pickle), options)


def _read_bundle(path: Path, config: str | Path | None, *, allow_pickle: bool) -> Bundle:
    file = _find_weights(path) if path.is_dir() else path
    folder = file.parent
    fields = _read_config(folder, config)
    tensors, metadata, size = _read_tensors(file, allow_pickle=allow_pickle)
    companions = (folder / name for name in TOKENIZER_FILES)
    return Bundle(
        where=str(path),
        tensors=tensors,
        metadata=metadata,
        config=fields,
        companions=tuple(file for file in companions if file.is_file()),
        nbytes=size,
    )


def _read_config(folder: Path, config: str | Path | None) -> Mapping[str, Any] | None:
    if config is not None:
        return read_json_file(Path(config))
    beside = folder / _CONFIG
    return read_json_file(beside) if beside.exists() else None


def _read_tensors(
    file: Path, *, allow_pickle: bool
) -> tuple[dict[str, Source], Mapping[str, str], int]:
    if file.suffix in _PICKLES:
        if not allow_pickle:
            raise UnsupportedError(
                f"{file}: a pickle, which can run code when it is read; --allow-pickle reads it "
                f"with torch's restricted unpickler"
            )
        from loratools.io.pickles import read_pickle

        return read_pickle(file), {}, file.stat().st_size
    opened = InputFile(file)
    header = opened.read_header()
    tensors: dict[str, Source] = {t.name: Stored(opened, t) for t in header.tensors}
    return tensors, header.metadata, opened.size


def _find_weights(folder: Path) -> Path:
    """The adapter's file in a folder: safetensors before pickles, known names before others."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for suffixes in ((".safetensors",), _PICKLES):
        found = [path for path in files if path.suffix in suffixes]
        for stem in _PREFERRED:
            for path in found:
                if path.stem == stem:
                    return path
        if len(found) == 1:
            return found[0]
        if found:
            raise FormatError(
                f"{folder}: several weight files ({listing(p.name for p in found)}); "
                f"name the one to use"
            )
    inside = [path.name for path in sorted(folder.iterdir()) if (path / _CONFIG).exists()]
    hint = f"; adapters are in its folders {listing(inside)}" if inside else ""
    raise FormatError(f"{folder}: no adapter file in this folder{hint}")
