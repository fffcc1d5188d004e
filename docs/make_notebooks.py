"""Run the notebooks anew, and make pages of them for the documentation.

`python docs/make_notebooks.py` runs each notebook where it lies, and stores what its cells print;
it needs nbclient and ipykernel, as the tests have them. With `--check` it compares instead. Sphinx
makes the pages itself, of what is stored, and needs neither.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "notebooks"

Notebook = dict[str, Any]


def notebooks() -> list[Path]:
    """The paths of all notebooks."""
    return sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> Notebook:
    """A notebook as its file has it."""
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def executed(notebook: Notebook, folder: Path) -> Notebook:
    """The notebook with what its cells print in a new kernel that works in `folder`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raises.
    """
    import nbformat
    from nbclient import NotebookClient

    node = nbformat.reads(text(notebook), as_version=4)
    client = NotebookClient(
        node, kernel_name="python3", timeout=120, record_timing=False, coalesce_streams=True
    )
    client.execute(cwd=str(folder))
    done: Notebook = json.loads(nbformat.writes(node))
    # The rest names the Python that ran it.
    done["metadata"] = {"kernelspec": done["metadata"]["kernelspec"]}
    return done


def text(notebook: Notebook) -> str:
    """The content of a notebook's file."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


# --- pages ------------------------------------------------------------------------------------


def page(notebook: Notebook) -> str:
    """A notebook as a page of Markdown."""
    return "\n\n".join(part for cell in notebook["cells"] for part in _parts(cell)) + "\n"


def _parts(cell: Notebook) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {"text/plain": output.get("text", "")})
        if "text/html" in data:
            yield f"```{{raw}} html\n{''.join(data['text/html'])}\n```"
        else:
            yield f"```text\n{''.join(data['text/plain']).rstrip()}\n```"


def write_pages() -> None:
    """Write the page of each notebook beside it."""
    for path in notebooks():
        path.with_suffix(".md").write_text(page(read(path)), encoding="utf-8")


def main() -> None:
    """Run each notebook and store it, or with `--check` exit with an error if one has changed."""
    for path in notebooks():
        ran = text(executed(read(path), path.parent))
        if "--check" not in sys.argv[1:]:
            path.write_text(ran, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != ran:
            sys.exit(f"{path}: its cells print something else now; run docs/make_notebooks.py")


if __name__ == "__main__":
    main()
