"""The files of an adapter as tensors, metadata and JSON: before they are understood, or after."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from loratools.io.companions import Companion
from loratools.io.file import InputFile
from loratools.io.source import Source

#: From a finished file, the entries of its metadata that depend on its bytes. Their values have
#: the lengths of those that were written in their place.
Seal = Callable[[InputFile], Mapping[str, str]]


@final
@dataclass(frozen=True)
class Bundle:
    """Tensors in file order, the file's metadata, and the JSON beside it.

    `config` is None where there is no such JSON. `where` names the adapter in messages;
    `companions` are its tokenizer and its processor, `model_config` is the `config.json` beside it.
    """

    where: str
    tensors: Mapping[str, Source]
    metadata: Mapping[str, str]
    config: Mapping[str, Any] | None
    companions: tuple[Companion, ...]
    nbytes: int
    seal: Seal | None = None
    model_config: Mapping[str, Any] | None = None
