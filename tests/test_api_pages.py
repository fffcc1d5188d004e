"""The reference has a page for each public name, which says what else is known of it."""

import inspect

import pytest

import loratools
from tests.test_docs import COMMANDS, DOCS, GUIDES_OF, load_script, read

make_api = load_script(DOCS / "make_api.py")
PAGES: dict[str, str] = make_api.pages()
ENTRIES = {entry.title: entry for entries in make_api.entries().values() for entry in entries}
VERBS = [name.replace("-", "_") for name in COMMANDS if name != "formats"]


@pytest.mark.parametrize("name", loratools.__all__)
def test_public_name_has_a_page(name: str) -> None:
    # With empty parentheses where nobody is to call it.
    directives = (f":: loratools.{name}\n", f":: loratools.{name}()\n")
    assert any(directive in PAGES[f"{name}.md"] for directive in directives)


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
