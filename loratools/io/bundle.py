"""The content of an adapter's files, as it was read or is to be written, not interpreted."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, final

from loratools.errors import errors_of
from loratools.io.companions import Companion
from loratools.io.file import InputFile
from loratools.io.source import Source
from loratools.typed import valued

#: Computes, from a finished file, the metadata entries that depend on its tensors. Their values
#: are as long as the placeholders that were written for them.
Seal = Callable[[InputFile], Mapping[str, str]]


@final
@dataclass(frozen=True)
class ConfigName:
    """The name of a config in messages: `file`, or the `part` of that file that it is.

    `hint` is the advice where what it says is malformed.
    """

    file: str
    part: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        """The beginning of a message about the config."""
        return self.file if self.part is None else f"{self.file}: {self.part}"

    def errors(self) -> AbstractContextManager[None]:
        """Begin the errors of a block with the name: those about what the config says."""
        return errors_of(str(self), self.file, self.hint)


def repair() -> str:
    """What to do about a config in a file that says something wrong."""
    return f"correct it there, or name another config with {valued('config')}"


@final
@dataclass(frozen=True)
class Bundle:
    """Tensors in file order, the file's metadata, and the JSON beside it.

    `config` is None where there is no such JSON. `where` names the adapter in messages;
    `companions` are the files of its tokenizer and processor, `nbytes` is the size of its tensors
    or of their files, and `model_config` is the `config.json` beside it. `config_file` is the name
    of the file that `config` was read from; None where it was given otherwise.
    """

    where: str
    tensors: Mapping[str, Source]
    metadata: Mapping[str, str]
    config: Mapping[str, Any] | None
    companions: tuple[Companion, ...]
    nbytes: int
    seal: Seal | None = None
    model_config: Mapping[str, Any] | None = None
    config_file: str | None = None

    @property
    def config_name(self) -> ConfigName:
        """The name of the config in messages."""
        if self.config_file is None:
            return ConfigName(self.where, "config")
        return ConfigName(self.config_file, hint=repair())
