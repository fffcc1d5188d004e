"""The files that a push writes: the model card, and a config with another base."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from loratools.errors import FormatError, UnsupportedError
from loratools.formats import dialect_named
from loratools.io.checkpoint import Checkpoint
from loratools.io.file import InputFile
from loratools.io.folder import read_json
from loratools.io.json import encode_json
from loratools.publishing.push_options import PushOptions
from loratools.typed import as_typed

if TYPE_CHECKING:
    from loratools.describing.description import Inspection
    from loratools.publishing.card.facts import CardFacts
    from loratools.publishing.card.reports import Step

CARD = "README.md"
_MAX_TEXT_BYTES = 10_000_000


def with_base(
    files: Mapping[str, InputFile], found: "Inspection | Checkpoint", base: str
) -> dict[str, bytes]:
    """The adapter's config file, by name, with `base` as the name of its base model."""
    filed = None if isinstance(found, Checkpoint) else found.adapter.filed
    dialect = None if filed is None else dialect_named(filed.dialect)
    config = None if dialect is None else dialect.config
    if dialect and dialect.base_field and config and config in files:
        fields = {**read_json(files[config]), dialect.base_field: base}
        return {config: encode_json(fields)}
    raise UnsupportedError(
        "there is no adapter's config here that names a base", hint=f"leave {as_typed('base')} out"
    )


def facts_for(
    repo: str, found: "Inspection | Checkpoint", steps: Sequence["Step"], options: PushOptions
) -> "CardFacts":
    """What the card says of an adapter or a model, and of the commands that made it."""
    from loratools.publishing.card.facts import facts_of

    base_models = None if options.base is None else (options.base,)
    return facts_of(repo, found, steps, base_models=base_models, licence=options.license)


def card_at(repo: str, commit: str | None) -> InputFile | None:
    """The model card in the repository at this commit, if there is one."""
    from loratools.hub.repository import Repository

    there = None if commit is None else Repository(repo, commit)
    if there is None or CARD not in there.files:
        return None
    _check_size(there.files[CARD].size, f"{there.name}/{CARD}")
    return InputFile(there.fetch([CARD])[CARD])


def completed(card: InputFile | None, facts: "CardFacts", template: str | None, name: str) -> str:
    """The text of `card` completed with `facts`; without a card, of a new one."""
    from loratools.publishing.card.readme import complete_card

    existing = None if card is None else text_of(card)
    if template is None:
        return complete_card(existing, facts)
    return complete_card(existing, facts, template, template_name=name)


def text_of(file: InputFile) -> str:
    """The text of a card or a template.

    Raises:
        FormatError: it is too long to be one, or not UTF-8.
    """
    _check_size(file.size, file.where)
    try:
        return file.read(0, file.size).decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{file.where}: not UTF-8") from None


def _check_size(size: int, where: str) -> None:
    if size > _MAX_TEXT_BYTES:
        raise FormatError(f"{where}: {size} bytes are too many for a card")
