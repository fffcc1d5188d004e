"""Write a model card, or complete an existing README.md without changing its own text.

The section that loratools manages is between two comments, and is replaced there; to the metadata
at the top, only keys that are missing are added.
"""

import re
from typing import Any

from loratools.errors import FormatError
from loratools.publishing.card.facts import CardFacts
from loratools.publishing.card.front_matter import (
    front_matter_of,
    is_front_matter,
    read_front_matter,
)
from loratools.publishing.card.template import BEGIN, END, TEMPLATE_NAME, render

__all__ = ["complete_card"]

_NAME = "README.md"
#: Front matter as the Hub recognises it; and empty front matter, which the Hub does not recognise.
_FRONT_MATTER = (
    re.compile(
        r"\A(\ufeff?\s*---(?:\r\n|\r|\n))(.*?)((?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|\Z))", re.DOTALL
    ),
    re.compile(r"\A(\ufeff?\s*---(?:\r\n|\r|\n))()(---[ \t]*(?:\r\n|\n|\Z))"),
)


def complete_card(
    existing: str | None,
    facts: CardFacts,
    template: str | None = None,
    *,
    template_name: str = TEMPLATE_NAME,
) -> str:
    """The existing card with `facts` added; without one, a new card made by the template.

    An existing card keeps every character outside of the managed section, and all its metadata.
    Completing a complete card changes nothing. `template_name` is for messages.

    Raises:
        FormatError: the metadata is not a YAML mapping, it is not clear where the managed section
            begins and ends, or the template fails or makes no such section.
    """
    made = render(facts, template, template_name)
    place = _section(made, template_name)
    if place is None:
        raise FormatError(f"{template_name}: makes no section from {BEGIN} to {END}")
    if not existing:
        return _with_metadata(made, facts, template_name)
    return _with_metadata(_with_section(existing, made[place]), facts, _NAME)


def _with_section(card: str, section: str) -> str:
    front = _front_matter(card)
    start = front.end() if front else 0
    line_end = _line_end(card)
    section = section.replace("\n", line_end)
    place = _section(card, _NAME, start)
    if place is not None:
        return f"{card[: place.start]}{section}{card[place.stop :]}"
    gap = "" if card.endswith("\n") else line_end
    return f"{card}{gap}{line_end}{section}{line_end}"


def _section(card: str, where: str, start: int = 0) -> "slice | None":
    """Where the managed section is, with its comments; None where there is none."""
    begins, ends = (_places(mark, card, start) for mark in (BEGIN, END))
    if not begins and not ends:
        return None
    if len(begins) > 1 or len(ends) > 1:
        second = min(begins[1:2] + ends[1:2])
        raise FormatError(
            f"{where}, line {_line(card, second)}: a second managed section",
            hint="keep one of them",
        )
    if not ends or not begins or ends[0] < begins[0]:
        odd, other = (BEGIN, END) if begins else (END, BEGIN)
        line = _line(card, (begins or ends)[0])
        raise FormatError(f"{where}, line {line}: {odd} without {other} where it belongs")
    return slice(begins[0], ends[0] + len(END))


def _places(mark: str, card: str, start: int) -> list[int]:
    return [match.start() for match in re.compile(re.escape(mark)).finditer(card, start)]


def _line(card: str, place: int) -> int:
    return card.count("\n", 0, place) + 1


def _line_end(card: str) -> str:
    """The line ending of the card's first line."""
    # A \r at the very end would become a \r\n by what is added after it.
    found = re.search(r"\r\n|\n|\r\Z", card)
    return "\r\n" if found and found[0].startswith("\r") else "\n"


# --- metadata ----------------------------------------------------------------------------------


def _front_matter(card: str) -> re.Match[str] | None:
    """The front matter's match; its groups are the opening line, the YAML and the closing line."""
    return next(filter(None, (form.match(card) for form in _FRONT_MATTER)), None)


def _metadata(facts: CardFacts) -> dict[str, Any]:
    """The metadata that `facts` give, under the Hub's keys and by its rules."""
    fields: dict[str, Any] = {}
    if facts.base_models:
        bases = list(facts.base_models)
        fields["base_model"] = bases[0] if len(bases) == 1 else bases
        fields["base_model_relation"] = facts.kind
    if facts.library_name is not None:
        fields["library_name"] = facts.library_name
    if facts.licence is not None:
        fields["license"] = facts.licence
    if facts.tags:
        fields["tags"] = list(facts.tags)
    return fields


def _with_metadata(card: str, facts: CardFacts, where: str) -> str:
    wanted, line_end = _metadata(facts), _line_end(card)
    front = _front_matter(card)
    if front is None:
        mark = "\ufeff" if card.startswith("\ufeff") else ""
        block = f"---\n{front_matter_of(wanted)}---\n\n".replace("\n", line_end)
        return f"{mark}{block}{card.removeprefix(mark)}"
    opening, block, closing = front.groups()
    present, indent = read_front_matter(block, where, first=opening.count("\n") + 1)
    missing = {name: value for name, value in wanted.items() if name not in present}
    if not missing:
        return card
    lines = "".join(f"{' ' * indent}{line}\n" for line in front_matter_of(missing).splitlines())
    added = f"\n{lines[:-1]}" if block else lines[: -1 if closing[0] in "\r\n" else None]
    completed = block + added.replace("\n", line_end)
    if not is_front_matter(completed):
        raise FormatError(
            f"{where}: {', '.join(missing)} cannot be added to the front matter as it is written",
            hint="write one key a line",
        )
    return opening + completed + closing + card[front.end() :]
