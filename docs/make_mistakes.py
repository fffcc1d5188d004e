"""Write `reference/mistakes.md`: makes every mistake of `tests/mistakes.py`; `--check` compares."""

import contextlib
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"

from loratools.cli import run  # noqa: E402 (it is found by the path above)
from tests.mistakes import MISTAKES, Mistake, furnish  # noqa: E402

PAGE = Path(__file__).parent / "reference" / "mistakes.md"

_HEAD = """\
<!-- Made by docs/make_mistakes.py from tests/mistakes.py: run scripts/docs, do not edit. -->

# Mistakes and their messages

What loratools answers to ordinary mistakes: what is wrong, where, and what to do. The last column
is the [exit code](exit-codes.md). No mistake changes an input or leaves an output behind. The
commands are run where `base` is a language model, `adapter` an adapter for it, `gpt2` one for
another model, and `style.safetensors` an adapter for an image model. The tests make each mistake.
"""


def page() -> str:
    """The text of the page."""
    with tempfile.TemporaryDirectory() as folder:
        furnish(Path(folder) / "furnished")
        parts = [_HEAD]
        for title, mistakes in MISTAKES.items():
            head = f"## {title}\n\n| mistake | command | message | code |\n|---|---|---|---|\n"
            rows = (row(mistake, _message(mistake, Path(folder))) for mistake in mistakes)
            parts.append(head + "".join(f"{line}\n" for line in rows))
    return "\n".join(parts)


def row(mistake: Mistake, message: str) -> str:
    """The line of the table for a mistake with this message."""
    cells = (
        mistake.name,
        f"`{mistake.command}`",
        message.removeprefix("Error: "),
        str(mistake.code),
    )
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "\\<") for cell in cells) + " |"


def _message(mistake: Mistake, folder: Path) -> str:
    """The last line on stderr, after the mistake has been made in a new folder."""
    here = Path(shutil.copytree(folder / "furnished", folder / "here"))
    errors, arguments = io.StringIO(), sys.argv
    try:
        with contextlib.chdir(here), contextlib.redirect_stderr(errors):
            mistake.prepare()
            sys.argv = ["loratools", *mistake.arguments]
            with mistake.during():
                run()
    finally:
        sys.argv = arguments
        shutil.rmtree(here)
    lines = errors.getvalue().splitlines()
    assert lines, f"{mistake.name}: says nothing"
    return lines[-1]


def main() -> None:
    """Write the page, or with `--check` exit with an error if it is not current."""
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE}: not what the program says now; run scripts/docs")


if __name__ == "__main__":
    main()
