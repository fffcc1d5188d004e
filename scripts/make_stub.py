"""Write `loratools/__init__.pyi`, for type checkers, from the table of public names.

With `--check`, only compare.
"""

import sys
from pathlib import Path

import loratools

STUB = Path(loratools.__file__).with_suffix(".pyi")

_HEAD = "# Made by scripts/make_stub.py from the table in __init__.py: run it, do not edit."


def stub() -> str:
    """The text of the stub, from the current table."""
    public: dict[str, tuple[str, ...]] = vars(loratools)["_PUBLIC"]
    imports = [
        f"from {module} import {name} as {name}"
        for module, names in sorted({**public, "loratools.version": ("__version__",)}.items())
        for name in names
    ]
    imports.insert(0, "from loratools import errors as errors")  # named in the help of the verbs
    listed = [f'    "{name}",' for name in loratools.__all__]
    return "\n".join([_HEAD, "", *imports, "", "__all__ = [", *listed, "]", ""])


def main() -> None:
    """Write the stub, or with `--check` exit with an error if it is not current."""
    if "--check" not in sys.argv[1:]:
        STUB.write_text(stub(), encoding="utf-8")
    elif not STUB.exists() or STUB.read_text(encoding="utf-8") != stub():
        sys.exit(f"{STUB}: not the public names of now; run scripts/make_stub.py")


if __name__ == "__main__":
    main()
