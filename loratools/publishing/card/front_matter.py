"""The YAML above the text of a model card, read within limits: anybody may have written it.

A few thousand bytes of YAML can take minutes, or all memory: brackets in each other, mappings that
are merged into each other, a number of many digits. Its events show these before a value is made.
"""

import re
from typing import Any

from loratools.errors import FormatError

#: Characters of it. Results of a hundred benchmarks have 300,000.
LONGEST = 2**20
_DEEPEST = 100
_TOO_DEEP = f"lists and mappings in each other, more than {_DEEPEST} deep"
_LONGEST_NUMBER = 1000
#: In base 60 too, of which each digit costs as much as all before it.
_NUMBER = re.compile(r"[-+0-9_:.]+")
#: What PyYAML raises for tags whose values are not theirs, and for numbers that are none.
_NOT_YAML = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def read_front_matter(block: str, where: str, *, first: int) -> tuple[dict[Any, Any], int]:
    """The names with their values, and the column of the names; `first` is the first line's number.

    Raises:
        FormatError: it is not a YAML mapping, or not one within the limits.
    """
    import yaml

    if len(block) > LONGEST:
        raise FormatError(f"{where}: the front matter has more than {LONGEST} characters")
    if "\ufeff" in block:
        # PyYAML's loader in C passes over it, that in Python and other readers do not.
        raise FormatError(f"{where}: a byte order mark inside the front matter; remove it")
    try:
        column = _column(block)
        fields = yaml.load(block, Loader=_loader())
    except (yaml.YAMLError, *_NOT_YAML) as error:
        mark = getattr(error, "problem_mark", None)
        line = first + (mark.line if mark else 0)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise FormatError(
            f"{where}, line {line}: the front matter is not YAML: {problem}"
        ) from error
    if fields is None:
        return {}, 0
    if not isinstance(fields, dict):
        raise FormatError(
            f"{where}, line {first}: the front matter is not a mapping of names to values"
        )
    return fields, column


def is_front_matter(block: str) -> bool:
    """Whether it is YAML within the limits, after what was added: `{a: 1}` takes no more lines."""
    import yaml

    try:
        _column(block)
    except yaml.YAMLError:
        return False
    return True


def front_matter_of(fields: dict[str, Any]) -> str:
    """The YAML of some names and values, in this order."""
    import yaml

    text: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1_000_000)
    return text


def _loader() -> Any:
    """PyYAML's safe loader, in C where it was built with it, which is ten times as fast."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _column(block: str) -> int:
    """The column in which the outermost mapping begins.

    Raises:
        yaml.YAMLError: it is not YAML, has more than one document, or is not within the limits.
    """
    import yaml

    depth, documents, column = 0, 0, None
    for event in yaml.parse(block, Loader=_loader()):
        problem = None
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            column = event.start_mark.column if column is None else column
            problem = _TOO_DEEP if depth > _DEEPEST else None
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            problem = "a second document" if documents > 1 else None
        elif isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
            problem = _too_much(event.value)
        if problem is not None:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
    return column or 0


def _too_much(text: str) -> str | None:
    """What is wrong with a value without quotes, which may be more than a text."""
    if text == "<<":
        return "merged mappings (<<), which can become very many: write out what they have"
    if len(text) > _LONGEST_NUMBER and _NUMBER.fullmatch(text):
        return f"a number of {len(text)} characters"
    return None
