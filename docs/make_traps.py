"""Write `reference/traps.md` from what traps say of themselves; with `--check`, only compare."""

import sys
from pathlib import Path

from loratools.traps import traps
from loratools.typed import on_command_line

PAGE = Path(__file__).parent / "reference" / "traps.md"

_HEAD = """\
<!-- Made by docs/make_traps.py from loratools/traps/: run scripts/docs, do not edit. -->

# Traps

Adapters whose updates are not what they seem, or that some program reads in another way. `inspect`
names the trap at the end of a note. A trap that is a problem makes
[`inspect --check`](../how-to/inspect.md#check-it-in-a-script) fail. One that is only noted is no
fault of the adapter, but of programs that may be given it.
[`rescale --repair`](../how-to/rescale.md#repair-it) repairs what can be repaired, and says what it
changed. [Where alpha is](../explanation/alpha.md) explains the rules behind this.
"""


def page() -> str:
    """The text of the page, from the traps."""
    with on_command_line():
        return "\n".join([_HEAD, *map(_section, traps())])


def _section(name: str) -> str:
    trap = traps()[name]
    rows = [
        ("goes wrong", trap.readers),
        ("found by", trap.found_by),
        (f"`--repair {name}`" if trap.is_repaired else "cure", trap.cure),
    ]
    table = "\n".join(f"| {what} | {text} |" for what, text in rows)
    return f"## {name}\n\n{trap.what}\n\n| | |\n|---|---|\n{table}\n"


def main() -> None:
    """Write the page, or with `--check` exit with an error if it is not current."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE}: not what the traps say now; run scripts/docs")


if __name__ == "__main__":
    main()
