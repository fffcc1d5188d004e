"""The content of an adapter's files, as it was read or is to be written, not interpreted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from loratools.io.companions import Companion
from loratools.io.file import InputFile
from loratools.io.source import Source

#: Computes, from a finished file, the metadata entries that depend on its tensors. Their values
#: are as long as the placeholders that were written for them.
Seal = Callable[[InputFile], Mapping[str, str]]


@final
@dataclass(frozen=True)
class Bundle:
    """Tensors in file order, the file's metadata, and the JSON beside it.

    `config` is None where there is no such JSON. `where` names the adapter in messages;
    `companions` are the files of its tokenizer and processor, `nbytes` is the size of its tensors
    or of their files, and `model_config` is the `config.json` beside it.
    """

    where: str
    tensors: Mapping[str, Source]
    metadata: Mapping[str, str]
    config: Mapping[str, Any] | None
    companions: tuple[Companion, ...]
    nbytes: int
    seal: Seal | None = None
    model_config: Mapping[str, Any] | None = None
