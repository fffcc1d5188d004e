"""Files that are copied along with weights unread, and which of them belong to a tokenizer.

The names of a tokenizer's files are the names that tokenizers in transformers use.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from loratools.io.file import InputFile

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
OLD_TEMPLATE = "chat_template.json"
ADDED_TOKENS = "added_tokens.json"

#: Each of these files is a complete vocabulary.
_WHOLE_VOCABULARIES = frozenset({
    TOKENIZER_JSON, "prophetnet.tokenizer", "sentencepiece.bpe.model", "sentencepiece.model",
    "spiece.model", "spm.model", "spm_char.model", "tekken.json", "tiktoken.model",
    "tokenizer.model", "vocab.txt",
})  # fmt: skip
#: Each of these files is a part of a vocabulary.
_PARTS_OF_VOCABULARIES = frozenset({
    "bpe.codes", "byte_maps.json", "dict.txt", "emoji.json", "entity_vocab.json", "merges.txt",
    "normalizer.json", "source.spm", "target.spm", "target_vocab.json", "vocab-src.json",
    "vocab-tgt.json", "vocab.json", "word_pronunciation.json", "word_shape.json",
})  # fmt: skip
_SETTINGS = frozenset({ADDED_TOKENS, "special_tokens_map.json", TOKENIZER_CONFIG})
_TEMPLATES = frozenset({TEMPLATE, OLD_TEMPLATE})
_MORE_TEMPLATES = "additional_chat_templates/"
_OF_TOKENIZERS = _WHOLE_VOCABULARIES | _PARTS_OF_VOCABULARIES | _SETTINGS | _TEMPLATES
_COMPARED_BYTES = 2**20


@final
@dataclass(frozen=True)
class Companion:
    """A file that is copied unread, by its name in a folder; it is opened when it is copied."""

    folder: Path
    name: str

    def open(self) -> InputFile:
        """Open the file, following no link inside the folder but those of a Hub's cache.

        Raises:
            FormatError: the file is another link, a pipe or a device.
            StorageError: the file cannot be read.
        """
        return InputFile(self.folder / self.name, folder=self.folder)

    @property
    def nbytes(self) -> int:
        """The file's size in bytes; errors as for `open`."""
        return self.open().size


def same_content(one: Companion, other: Companion) -> bool:
    """Whether two files have the same bytes."""
    if one == other:
        return True
    first, second = one.open(), other.open()
    if first.size != second.size:
        return False
    begins = range(0, first.size, _COMPARED_BYTES)
    sizes = (min(_COMPARED_BYTES, first.size - begin) for begin in begins)
    return all(
        first.read(begin, size) == second.read(begin, size)
        for begin, size in zip(begins, sizes, strict=True)
    )


def is_vocabulary(name: str) -> bool:
    """Whether a file is a tokenizer's vocabulary, or a part of one."""
    return name in _WHOLE_VOCABULARIES or name in _PARTS_OF_VOCABULARIES


def is_settings(name: str) -> bool:
    """Whether a file has the settings of a tokenizer."""
    return name in _SETTINGS


def is_template(name: str) -> bool:
    """Whether a file is a chat template."""
    return name in _TEMPLATES or name.startswith(_MORE_TEMPLATES)


def is_tokenizers(name: str) -> bool:
    """Whether a file belongs to a tokenizer."""
    return name in _OF_TOKENIZERS or name.startswith(_MORE_TEMPLATES)


def has_tokenizer(names: Iterable[str], beside: Iterable[str]) -> bool:
    """Whether the files with these names include a whole vocabulary.

    One that comes in parts is whole if it has every part that is among the files `beside`.
    """
    brought = set(names)
    parts = _PARTS_OF_VOCABULARIES.intersection(beside)
    return (
        not brought.isdisjoint(_WHOLE_VOCABULARIES)
        or {"vocab.json", "merges.txt"} <= brought
        or (bool(parts) and parts <= brought)
    )
