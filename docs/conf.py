"""How sphinx makes the documentation; `scripts/docs` runs it with warnings as errors."""

import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

import loratools

sys.path.insert(0, str(Path(__file__).parent))
import make_api
import make_notebooks

project = "loratools"
author = "The loratools developers"
version = release = loratools.version.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "loratools"

# In our docstrings `x` is code, as in Markdown.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
napoleon_use_ivar = True


def setup(app: Sphinx) -> None:
    """Have the reference made first, and docstrings changed before napoleon reads them, at 500."""
    app.connect("builder-inited", _prepare)
    app.connect("autodoc-process-docstring", _keep_colon, priority=400)


def _prepare(app: Sphinx) -> None:
    """Make the pages of notebooks and of the reference, where each function has one signature.

    Those of overloads, which only type checkers need, have no names of arguments.
    """
    make_notebooks.write_pages()
    make_api.write()
    for entry in make_api.entries()["verbs"]:
        module = ModuleAnalyzer.for_module(entry.value.__module__)
        module.analyze()
        module.overloads.clear()


def _keep_colon(
    app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    """Split the first word off a property's docstring, to keep a colon in its first line.

    Napoleon would take what is before the colon for the property's type.
    """
    if what == "property" and lines and " " in lines[0]:
        lines[0:1] = lines[0].split(" ", maxsplit=1)
