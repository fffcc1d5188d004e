"""Adapter files that are read but not yet understood."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from loratools.io.source import Source


@final
@dataclass(frozen=True)
class Bundle:
    """Tensors in file order, the file's metadata, and the JSON beside it, if any.

    `where` names the adapter in messages; `companions` are its tokenizer files.
    """

    where: str
    tensors: Mapping[str, Source]
    metadata: Mapping[str, str]
    config: Mapping[str, Any] | None
    companions: tuple[Path, ...]
    nbytes: int
