"""What a command imports: the Hub's client only where a name on the Hub is given."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.commands import PLAIN, SINGLE

CLIENT = ("huggingface_hub", "httpx2")


def imported(*arguments: str | Path, cwd: Path) -> tuple[int, str]:
    """The exit code of a command in a process of its own, and what it imported of the client."""
    program = (
        "import sys\nfrom loratools.cli import run\n"
        "code = run()\n"
        f"print(sorted({set(CLIENT)!r} & set(sys.modules)), file=sys.stderr)\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["pull", "--help"],
        ["push", "--help"],
        ["inspect", PLAIN],
        ["inspect", PLAIN, "--base", SINGLE, "--check"],
        ["merge", SINGLE, PLAIN, "-o", "merged"],
        ["merge", SINGLE, PLAIN, "-o", "merged", "--offline"],
        ["resize", PLAIN, "--rank", "2", "-o", "small"],
    ],
)
def test_files_here_need_no_client_of_the_hub(arguments: list[str | Path], tmp_path: Path) -> None:
    assert imported(*arguments, cwd=tmp_path) == (0, "[]")


def test_a_name_on_the_hub_needs_it(tmp_path: Path) -> None:
    code, modules = imported("inspect", "hf://ann/plain", "--offline", cwd=tmp_path)
    assert (code, modules) == (4, "['httpx2', 'huggingface_hub']")
