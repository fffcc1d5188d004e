"""Render a model card with a Jinja2 template: the one beside this file, or a user's."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loratools.errors import FormatError, escaped, shorten
from loratools.formats import dialects
from loratools.publishing.card.facts import CardFacts

if TYPE_CHECKING:
    from jinja2 import Environment, Template

TEMPLATE_NAME = "card.md.jinja"
#: The template that ours includes: how the adapter's library loads it, which its dialect says.
_USAGE_NAME = "usage.md.jinja"
BEGIN = "<!-- loratools:begin -->"
END = "<!-- loratools:end -->"
#: The usage of an adapter that no library is known to load.
_NO_USAGE = """
```sh
loratools inspect hf://{{ repo }}
```
"""
#: The most rows of a table that are shown.
_LIMIT = 100
#: The most characters of a value that are shown.
_MAX_TEXT = 300
#: From characters with a meaning in Markdown, in a code span or a table, to their full-width forms,
#: which are 0xFEE0 after ASCII.
_HARMLESS = {ord(character): ord(character) + 0xFEE0 for character in "`|<>&[]"}


def render(facts: CardFacts, template: str | None, name: str) -> str:
    r"""The card without metadata, made by `template`, or by ours if None; lines end with \n.

    Raises:
        FormatError: the template is malformed, or fails; the message has its name and the line.
    """
    import jinja2

    environment = _environment(_usage(facts.library_name))
    text = _default() if template is None else template
    context = _context(facts)
    try:
        # Compiled under its name, so that a traceback has it.
        code = environment.compile(text, name, name)
        made: Template = environment.template_class.from_code(environment, code, {})
        return made.render(context)
    except jinja2.TemplateSyntaxError as error:
        where = f"{error.filename or error.name or name}, line {error.lineno}"
        raise FormatError(f"{where}: {error.message}") from error
    # A template is a program: it can divide by zero.
    except Exception as error:
        raise FormatError(f"{_failed_at(error, name)}: {error or type(error).__name__}") from error


def _environment(usage: str) -> "Environment":
    """A sandbox in which a user's template may extend ours, and do nothing but make text."""
    from jinja2 import FunctionLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def load(name: str) -> tuple[str, str, None] | None:
        text = {TEMPLATE_NAME: _default(), _USAGE_NAME: usage}.get(name)
        return None if text is None else (text, name, None)

    return ImmutableSandboxedEnvironment(
        loader=FunctionLoader(load),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown: `_context` makes values harmless
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        cache_size=0,
    )


def _usage(library: str | None) -> str:
    """The template of the usage: how `library` loads an adapter, as a dialect of it says."""
    told = (d.usage for d in dialects() if d.usage is not None and d.library == library)
    return next(told, _NO_USAGE)


def _default() -> str:
    return Path(__file__).with_name(TEMPLATE_NAME).read_text(encoding="utf-8")


def _context(facts: CardFacts) -> dict[str, Any]:
    """The variables that a template may use; `docs/how-to/model-card.md` lists them."""
    fields: dict[str, Any] = _harmless(asdict(facts))
    title = facts.repo.partition("/")[2]
    return {**fields, "title": title, "begin": BEGIN, "end": END, "limit": _LIMIT}


def _harmless(value: Any) -> Any:
    """A value whose strings are one line each, and cannot end a code span, a row or a comment.

    >>> _harmless({"name": ["a|b", 3]})
    {'name': ['a｜b', 3]}
    """
    if isinstance(value, str):
        return shorten(escaped(value).translate(_HARMLESS), _MAX_TEXT) or "(empty)"
    if isinstance(value, dict):
        return {name: _harmless(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_harmless(inner) for inner in value]
    return value


def _failed_at(error: Exception, name: str) -> str:
    """The template and the line that an error came from: the innermost frame of a template."""
    where, frame = name, error.__traceback__
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if file in {name, TEMPLATE_NAME}:
            where = f"{file}, line {frame.tb_lineno}"
        frame = frame.tb_next
    return where
