"""The notebooks of the documentation run, and print what is stored in them."""

from pathlib import Path

import pytest

from tests.oracles import oracle
from tests.test_docs import DOCS, load_script, read

oracle("nbclient")
oracle("ipykernel")
make_notebooks = load_script(DOCS / "make_notebooks.py")


@pytest.mark.slow
@pytest.mark.parametrize("path", make_notebooks.notebooks(), ids=lambda path: path.name)
def test_cells_print_what_is_stored(path: Path, tmp_path: Path, fixtures: Path) -> None:
    (tmp_path / "fixtures").symlink_to(fixtures.resolve(), target_is_directory=True)
    folder = tmp_path / "docs" / "notebooks"
    folder.mkdir(parents=True)
    ran = make_notebooks.executed(make_notebooks.read(path), folder)
    assert make_notebooks.text(ran) == read(path), "run docs/make_notebooks.py"


@pytest.mark.parametrize("path", make_notebooks.notebooks(), ids=lambda path: path.name)
def test_notebook_is_in_the_table_of_contents(path: Path) -> None:
    assert f"\nnotebooks/{path.stem}\n" in read("docs/index.md")


def test_page_has_the_text_the_code_and_what_it_printed() -> None:
    stored = {
        "cells": [
            {"cell_type": "markdown", "source": ["# A *title*\n", "of two lines"]},
            {
                "cell_type": "code",
                "source": ["print(1)\n", "table"],
                "outputs": [
                    {"output_type": "stream", "text": ["1\n"]},
                    {"output_type": "execute_result", "data": {
                        "text/plain": ["a table"], "text/html": ["<table></table>"],
                    }},
                ],
            },
        ]
    }  # fmt: skip
    assert make_notebooks.page(stored) == (
        "# A *title*\nof two lines\n\n"
        "```python\nprint(1)\ntable\n```\n\n"
        "```text\n1\n```\n\n"
        "```{raw} html\n<table></table>\n```\n"
    )
