"""The adapter's tokenizer has tokens that the base's vocabulary has no rows for."""

from collections.abc import Iterator, Mapping
from typing import Any

from loratools.errors import counted
from loratools.io.companions import ADDED_TOKENS
from loratools.io.folder import read_json
from loratools.parts import Note
from loratools.traps._trap import Seen, Trap


class _AddedTokens(Trap):
    what = "`added_tokens.json` beside the adapter has tokens beyond the vocabulary of the base."
    readers = "SGLang refuses such an adapter"
    cure = "merge it: a merge gives the model the rows that the adapter stores"
    found_by = "`inspect --base`"

    def find(self, seen: Seen) -> Iterator[Note]:
        rows = None if seen.base is None else _vocabulary(seen.base.config or {})
        if rows is None:
            return
        for companion in seen.adapter.companions:
            tokens = read_json(companion.open()) if companion.name == ADDED_TOKENS else {}
            new = sum(type(number) is int and number >= rows for number in tokens.values())
            if new:
                yield Note(
                    "info",
                    f"{ADDED_TOKENS} has {counted(new, 'token')} beyond the {rows} of the base's "
                    f"vocabulary: SGLang refuses the adapter",
                )


def _vocabulary(config: Mapping[str, Any]) -> int | None:
    """The number of tokens in the vocabulary of a model, by its config."""
    nested = config.get("text_config")
    fields = {**(nested if isinstance(nested, dict) else {}), **config}
    size = fields.get("vocab_size")
    return size if type(size) is int else None


TRAP = _AddedTokens()
