"""The YAML above the text of a model card, read within limits: anybody may have written it.

A few thousand bytes of YAML can take minutes, or all memory: deeply nested brackets, mappings that
are merged into each other, a number of many digits. The parser's events show these before any value
is built.
"""

import re
from typing import Any

from loratools.errors import FormatError, counted

#: The most characters of a front matter; the results of a hundred benchmarks have 300,000.
LONGEST = 2**20
_DEEPEST = 100
_TOO_DEEP = f"lists and mappings in each other, more than {_DEEPEST} deep"
_LONGEST_NUMBER = 1000
#: Also numbers in base 60 (`1:30:00`), each digit of which costs as much as all before it.
_NUMBER = re.compile(r"[-+0-9_:.]+")
#: What PyYAML raises for values that do not fit their tags, and for malformed numbers.
_NOT_YAML = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def read_front_matter(block: str, where: str, *, first: int) -> tuple[dict[Any, Any], int]:
    """The parsed mapping, and the column of its keys; `first` is the number of its first line.

    Raises:
        FormatError: it is not a YAML mapping, or not one within the limits.
    """
    import yaml

    if len(block) > LONGEST:
        raise FormatError(f"{where}: the front matter has more than {LONGEST} characters")
    if "\ufeff" in block:
        # PyYAML's C loader skips it; its Python loader and other readers do not.
        raise FormatError(f"{where}: a byte order mark inside the front matter", hint="remove it")
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
    """Whether a block with added lines is still YAML within the limits: `{a: 1}` can take none."""
    import yaml

    try:
        _column(block)
    except yaml.YAMLError:
        return False
    return True


def front_matter_of(fields: dict[str, Any]) -> str:
    """`fields` as YAML, in their order, each value on one line."""
    import yaml

    text: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1_000_000)
    return text


def _loader() -> Any:
    """PyYAML's safe loader: the one in C, where it is built, is ten times as fast."""
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
    """The fault of an unquoted value, which YAML may read as more than text; None without one."""
    if text == "<<":
        return "merged mappings (<<), which can become very many: write out what they have"
    if len(text) > _LONGEST_NUMBER and _NUMBER.fullmatch(text):
        return f"a number of {counted(len(text), 'character')}"
    return None
