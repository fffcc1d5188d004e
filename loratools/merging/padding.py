"""The padding token of an output's tokenizer, which a class that reads the last token must know."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from loratools.errors import LoratoolsError
from loratools.files.companions import Companions
from loratools.merging.plan import MergePlan


def with_pad_token(plan: MergePlan, companions: Companions) -> MergePlan:
    """The plan with the padding token of a new head that needs one, or a note that none is known.

    `companions` are the files beside the output's weights, among them its tokenizer's.
    """
    if plan.head is None or not plan.head.needs_pad_token:
        return plan
    number = find_pad_token(companions)
    note = (
        "config.json: pad_token_id is missing, and no tokenizer tells it; without it the class "
        "takes one text at a time"
        if number is None
        else f"config.json: pad_token_id becomes {number}, the padding token of the tokenizer"
    )
    head = replace(plan.head, pad_token=number)
    return replace(plan, head=head, notes=(*plan.notes, note))


def find_pad_token(files: Companions) -> int | None:
    """The id of the token that a tokenizer pads with; None if its files do not state it."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _content(_read(files, name).get("pad_token"))
        if token is not None:
            return next(_numbers(files, token), None)
    return None


def _numbers(files: Companions, token: str) -> Iterator[int]:
    """The ids that the files of a tokenizer give to a token; the smallest files are read first."""
    decoder = _read(files, "tokenizer_config.json").get("added_tokens_decoder")
    for number, entry in decoder.items() if isinstance(decoder, dict) else ():
        if _content(entry) == token and number.isdecimal():
            yield int(number)
    for name in ("added_tokens.json", "vocab.json"):
        if type(number := _read(files, name).get(token)) is int:
            yield number
    added = _read(files, "tokenizer.json").get("added_tokens")
    for entry in added if isinstance(added, list) else ():
        if _content(entry) == token and type(entry.get("id")) is int:
            yield entry["id"]


def _content(entry: object) -> str | None:
    """The text of a token, which is stored as a string or in an object; None for anything else."""
    found = entry.get("content") if isinstance(entry, dict) else entry
    return found if isinstance(found, str) else None


def _read(files: Companions, name: str) -> Mapping[str, Any]:
    """The JSON object in a file; empty for a missing or malformed one, which is no error here."""
    try:
        return files.read_json(name)
    except LoratoolsError:
        return {}
