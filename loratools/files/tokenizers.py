"""A tokenizer whose vocabulary comes from one folder, and its settings or template from another.

transformers prefers a template in a file of its own to one in `tokenizer_config.json`, and gives a
new token the next free id, whatever id the settings state. So an adapter's template is put into
every place where a reader may look, and settings that contradict the vocabulary are refused.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

from loratools.errors import FormatError, listing, shorten
from loratools.io.companions import (
    ADDED_TOKENS,
    OLD_TEMPLATE,
    TEMPLATE,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    Companion,
    is_settings,
    is_template,
    is_vocabulary,
)
from loratools.io.folder import read_json
from loratools.io.json import encode_json

_MAX_TEMPLATE_BYTES = 10_000_000
#: Fields of `tokenizer_config.json` that depend on the vocabulary, and stay with it.
_OF_THE_VOCABULARY = ("tokenizer_class", "auto_map", "backend")
_FIELD = "chat_template"


@final
@dataclass(frozen=True)
class Joined:
    """The files of a tokenizer, copied or generated.

    `added` names the files of an adapter in a tokenizer that stays; `refused` has the files of the
    adapter that were not taken, with the reason.
    """

    copied: Mapping[str, Companion]
    made: Mapping[str, bytes]
    added: tuple[str, ...]
    refused: Mapping[str, str]

    def notes(self) -> Iterator[str]:
        """Notes on the adapter's files that were added to the tokenizer or refused."""
        if self.added:
            yield (
                f"{listing(self.added)}: from the adapter; other files of the tokenizer stay as "
                f"they are"
            )
        for name, why in self.refused.items():
            yield f"{name}: not taken from the adapter: {why}"


def join(stays: Mapping[str, Companion], brought: Mapping[str, Companion]) -> Joined:
    """The tokenizer `stays`, to which the settings and templates in `brought` are added.

    Raises:
        FormatError: a file is not JSON or, for a template, not UTF-8; or it is a link.
        StorageError: a file cannot be read.
    """
    settings = {name: file for name, file in brought.items() if is_settings(name)}
    templates = {name: file for name, file in brought.items() if is_template(name)}
    refused = dict.fromkeys(filter(is_vocabulary, brought), "a part of a vocabulary")
    template = _template(brought)
    if (why := _contradiction(stays, settings)) is not None:
        refused |= dict.fromkeys(settings, why)
        settings = {}
    if template is not None:
        stays = {name: file for name, file in stays.items() if not is_template(name)}
    made = {}
    if OLD_TEMPLATE in templates and TEMPLATE not in templates:
        made[TEMPLATE] = str(template).encode()
    copied = {**stays, **settings, **templates}
    config = _config(stays, settings, template)
    if config is not None:
        made[TOKENIZER_CONFIG] = encode_json(config)
    copied = {name: file for name, file in copied.items() if name not in made}
    return Joined(copied, made, tuple(sorted({**settings, **templates})), refused)


def staying(
    tokenizer: Mapping[str, Companion], vocabulary: Mapping[str, Companion]
) -> dict[str, Companion]:
    """A tokenizer's settings and templates that fit another vocabulary without settings.

    All of them, if the special tokens that they name have the same ids in both; else none.
    """
    stays = {n: f for n, f in tokenizer.items() if is_settings(n) or is_template(n)}
    if any(map(is_settings, vocabulary)) or not ({TOKENIZER_JSON} <= {*tokenizer} & {*vocabulary}):
        return {}
    settings = {name: file for name, file in stays.items() if is_settings(name)}
    try:
        before = _ids(_fields(tokenizer, TOKENIZER_JSON)) | dict(_added(settings))
        now = _ids(_fields(vocabulary, TOKENIZER_JSON))
        special = {*_special_tokens(settings), *(token for token, _ in _added(settings))}
        are_same = all(token in now and now[token] == before.get(token) for token in special)
    except (AttributeError, FormatError, IndexError, KeyError, TypeError, ValueError):
        return {}  # malformed files cannot be compared, so that nothing shows that they agree
    return stays if are_same else {}


def note_replaced(before: Mapping[str, Companion], joined: Joined) -> Iterator[str]:
    """Notes on what stays of the base's tokenizer and what does not, beside another vocabulary."""
    same = {name for name, file in before.items() if joined.copied.get(name) == file}
    if same.issuperset(name for name in before if is_vocabulary(name)):
        return
    if same:
        yield f"{listing(sorted(same))}: of the base, beside the vocabulary of the adapter"
    after = {*joined.copied, *joined.made}
    gone = [name for name in before if name not in after]
    fields = (_fields(files, TOKENIZER_CONFIG) for files in (before, joined.copied))
    has_file = any(map(is_template, after)) or TOKENIZER_CONFIG in joined.made
    if not has_file and [_FIELD in found for found in fields] == [True, False]:
        gone.append(f"{_FIELD} in {TOKENIZER_CONFIG}")
    if gone:
        yield f"{listing(gone)}: of the base's tokenizer, and not taken beside that of the adapter"


def _special_tokens(settings: Mapping[str, Companion]) -> Iterator[str]:
    """The tokens to which settings give a role, such as `bos_token`, and further special tokens."""
    for name in settings:
        if name == ADDED_TOKENS:
            continue
        for key, value in _fields(settings, name).items():
            if key.endswith(("_token", "special_tokens")):
                values = value.values() if isinstance(value, dict) else value
                for token in values if isinstance(value, list) else [value]:
                    content = token["content"] if isinstance(token, dict) else token
                    if isinstance(content, str):
                        yield content


def _template(brought: Mapping[str, Companion]) -> Any:
    """The default chat template in the brought files; None if they have none."""
    if TEMPLATE in brought:
        return _text(brought[TEMPLATE])
    for name in (OLD_TEMPLATE, TOKENIZER_CONFIG):
        if (template := _fields(brought, name).get(_FIELD)) is not None:
            return template
    return None


def _config(
    stays: Mapping[str, Companion], settings: Mapping[str, Companion], template: Any
) -> dict[str, Any] | None:
    """The fields of the joined `tokenizer_config.json`; None if one of the files has the same."""
    old, new = _fields(stays, TOKENIZER_CONFIG), _fields(settings, TOKENIZER_CONFIG)
    fields = dict(new or old)
    fields |= {key: old[key] for key in _OF_THE_VOCABULARY if key in old}
    if _FIELD in old or _FIELD in new:
        fields[_FIELD] = old.get(_FIELD) if template is None else template
    return None if fields == (new or old) else fields


def _contradiction(stays: Mapping[str, Companion], settings: Mapping[str, Companion]) -> str | None:
    """Why a reader will give new tokens other ids than the settings state; None if it will not."""
    if TOKENIZER_JSON not in stays or not settings:
        return None
    try:
        return _first_wrong(_ids(_fields(stays, TOKENIZER_JSON)), _added(settings))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return "its tokens and those of the vocabulary that stays cannot be compared"


def _first_wrong(ids: dict[str, int], added: Iterable[tuple[str, int]]) -> str | None:
    """The first contradiction between a vocabulary and the tokens added to it; None without one."""
    tokens = {index: token for token, index in ids.items()}
    for token, index in sorted(added, key=lambda entry: entry[1]):
        gives = f"gives the id {index} to {shorten(token)!r}, and"
        if ids.get(token, index) != index or tokens.get(index, token) != token:
            return f"{gives} the vocabulary that stays has another"
        if token not in ids and index != len(ids):
            return f"{gives} the next free one is {len(ids)}"
        ids[token], tokens[index] = index, token
    return None


def _ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """The ids of all tokens in a `tokenizer.json`."""
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids: dict[str, int] = {}
    if isinstance(vocabulary, dict):
        ids |= vocabulary
    elif isinstance(vocabulary, list):  # Unigram: pairs of token and score, in the order of ids
        ids |= {entry[0]: index for index, entry in enumerate(vocabulary)}
    added = tokenizer.get("added_tokens")
    return ids | {token["content"]: token["id"] for token in added or ()}


def _added(settings: Mapping[str, Companion]) -> Iterable[tuple[str, int]]:
    """The tokens to which settings give ids, with these ids."""
    for token, index in _fields(settings, ADDED_TOKENS).items():
        yield token, int(index)
    decoder = _fields(settings, TOKENIZER_CONFIG).get("added_tokens_decoder")
    for index, token in (decoder if isinstance(decoder, dict) else {}).items():
        yield token["content"] if isinstance(token, dict) else token, int(index)


def _fields(files: Mapping[str, Companion], name: str) -> dict[str, Any]:
    return read_json(files[name].open()) if name in files else {}


def _text(companion: Companion) -> str:
    file = companion.open()
    if file.size > _MAX_TEMPLATE_BYTES:
        raise FormatError(f"{file.where}: {file.size} bytes are too many for a chat template")
    try:
        return file.read(0, file.size).decode()
    except UnicodeDecodeError:
        raise FormatError(f"{file.where}: not UTF-8") from None
