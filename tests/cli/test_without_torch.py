"""A torch that is missing or broken is no fault of loratools, and its message says what it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.results import refused
from tests.e2e.commands import SINGLE, SMALL, Result

#: What the import of torch does, by what is wrong with it.
BROKEN = {
    "missing": "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')",
    "a library that is not there": "raise ImportError('libcudart.so.12: cannot open it')",
    "a library that does not fit": "raise OSError('libc10.so: undefined symbol: x')",
}


def run_with(folder: Path, *arguments: object) -> Result:
    """Run a command for which `import torch` finds what is in the folder."""
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    ran = subprocess.run(
        [sys.executable, "-m", "loratools", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return Result(ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.parametrize("how", BROKEN)
def test_torch_that_cannot_be_loaded_is_named_with_what_to_do(tmp_path: Path, how: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text(BROKEN[how])
    result = run_with(tmp_path, "merge", SINGLE, SMALL, "-o", tmp_path / "out")
    assert refused(result, 4, "torch cannot be loaded: .*; install it again")
    assert not (tmp_path / "out").exists()
