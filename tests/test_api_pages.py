"""The reference has a page for each public name, which says what else is known of it."""

import dataclasses
import inspect
import re
from typing import Any

import click
import pytest

import loratools
from tests.test_docs import COMMANDS, DOCS, GUIDES_OF, load_script, read

make_api = load_script(DOCS / "make_api.py")
PAGES: dict[str, str] = make_api.pages()
ENTRIES = {entry.title: entry for entries in make_api.entries().values() for entry in entries}
DESCRIBED = [*make_api.entries()["verbs"], *make_api.entries()["options"]]
#: Options whose help does not say the same as the docstring of their counterpart, and why.
OTHER_WORDS = {
    "adapters": "--in of swap takes one adapter each time, and Python a list",
    "repair": "the command finds out by itself what there is to repair, and Python is told",
    "seed": "in Python a seed is what makes the rounding stochastic",
    "private": "the command says that it belongs to --create",
}
VERBS = [name.replace("-", "_") for name in COMMANDS if name != "formats"]


@pytest.mark.parametrize("name", loratools.__all__)
def test_public_name_has_a_page(name: str) -> None:
    # With empty parentheses where nobody is to call it.
    directives = (f":: loratools.{name}\n", f":: loratools.{name}()\n")
    assert any(directive in PAGES[f"{name}.md"] for directive in directives)


@pytest.mark.parametrize("name", loratools.__all__)
def test_each_page_has_an_example(name: str) -> None:
    shown = (PAGES[f"{name}.md"], make_api.example_in(ENTRIES[name].docstring))
    assert any("```python" in text or ">>> " in text for text in shown)


def test_each_page_is_in_the_list_of_one_section() -> None:
    links = [
        line.removeprefix("api/")
        for name, text in PAGES.items()
        if name.endswith(".inc")
        for line in text.splitlines()
        if line.startswith("api/")
    ]
    assert sorted(f"{link}.md" for link in links) == sorted(n for n in PAGES if n.endswith(".md"))
    index = read("docs/reference/api.md")
    assert [n for n in PAGES if n.endswith(".inc") and f"{{include}} api/{n}\n" not in index] == []


def test_sections_are_what_their_titles_say() -> None:
    sections = make_api.entries()
    titles = {name: {entry.title for entry in found} for name, found in sections.items()}
    assert {"merge", "open_adapter"} <= titles["verbs"]
    assert {"RankRule", "WriteOptions"} <= titles["options"]
    assert {"Adapter", "MergeReport"} <= titles["results"]
    assert {"MatchError", "LoratoolsError"} <= titles["errors"]
    assert all(inspect.isfunction(entry.value) for entry in sections["verbs"])


@pytest.mark.parametrize("name", VERBS)
def test_each_option_of_a_command_has_its_counterpart_in_python(name: str) -> None:
    page = PAGES[f"{name}.md"]
    guide = GUIDES_OF.get(name, name.replace("_", "-"))
    assert f"(../../how-to/{guide}.md)" in page
    assert (DOCS / "how-to" / f"{guide}.md").exists()
    found = [*make_api.counterparts(ENTRIES[name])]
    assert found
    for each in found:
        (row,) = [line for line in page.splitlines() if f"`{each.option.opts[-1]}`" in line]
        assert row.split(" | ")[1].strip(" |") not in ("", "–"), (
            f"docs/make_api.py: what is {each.option.opts[-1]} of {name} in Python? See INSTEAD"
        )


@pytest.mark.parametrize("name", [*make_api.INSTEAD, *make_api.RENAMED])
def test_options_that_are_explained_are_there(name: str) -> None:
    commands = [entry.command for entry in make_api.entries()["verbs"] if entry.command]
    assert name in {option.name for command in commands for option in command.params}


@pytest.mark.parametrize("entry", DESCRIBED, ids=lambda entry: entry.title)
def test_each_argument_is_described(entry: Any) -> None:
    described = make_api.described_in(entry.docstring)
    names = set(inspect.signature(entry.value).parameters)
    assert names - described.keys() == set()
    assert [name for name in names if not described[name].endswith(".")] == []


@pytest.mark.parametrize("entry", make_api.entries()["results"], ids=lambda entry: entry.title)
def test_each_attribute_of_a_result_is_described(entry: Any) -> None:
    names = {field.name for field in dataclasses.fields(entry.value)}
    described = make_api.described_in(entry.docstring)
    assert {name for name in names if not name.startswith("_")} - described.keys() == set()


@pytest.mark.parametrize("name", VERBS)
def test_docstrings_use_the_words_of_the_help(name: str) -> None:
    """Each begins with the first clause of the help, and then says what only Python has."""
    differing = {
        each.option.name: (first_clause(each.option), plain(each.words))
        for each in make_api.counterparts(ENTRIES[name])
        if each.argument is not None
        and each.option.name not in OTHER_WORDS
        and not plain(each.words).startswith(first_clause(each.option))
    }
    assert differing == {}


def first_clause(option: click.Option) -> str:
    """The help up to its first stop or example, in which the option's value is «this»."""
    text = re.split(r"[.;:](?:\s|$)|, such as |\s\[default", plain(option.help or ""))[0]
    value = str(option.metavar)
    return re.sub(rf"\b{re.escape(value.lower())}\b", "this", text) if len(value) == 1 else text


def plain(text: str) -> str:
    """Without capitals and quotes of code; globs are what all patterns are."""
    return text.lower().replace("`", "").replace(" one of these globs", "")


@pytest.mark.parametrize("name", OTHER_WORDS)
def test_exceptions_are_needed(name: str) -> None:
    found = [each for verb in VERBS for each in make_api.counterparts(ENTRIES[verb])]
    assert any(
        each.option.name == name and not plain(each.words).startswith(first_clause(each.option))
        for each in found
        if each.argument is not None
    )
