"""A dry run refuses the output that the run would refuse, and writes nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.results import refused
from tests.e2e.commands import FIXTURES, SMALL, run_here
from tests.hub.conftest import hub, server  # noqa: F401 - fixtures
from tests.hub.server import Hub
from tests.verbs import VERBS

MAKERS = ["merge", "svd-extract", "combine", "resize", "rescale", "convert"]


def existing(folder: Path) -> Path:
    return folder


def inside(folder: Path) -> Path:
    return folder / "file/out"


def nowhere(folder: Path) -> Path:
    return folder / "gone/out"


def like_a_file(folder: Path) -> Path:
    return folder / "out.bin"


#: Outputs that cannot be, in a folder with a file, and what is said of them.
OUTPUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "exists": (existing, "exists already; use --overwrite|holds the input"),
    "in a file": (inside, "file: not a folder"),
    "in no folder": (nowhere, "no such folder"),
    "named as what it is not": (like_a_file, "the output is "),
    "an input": (lambda folder: SMALL, "(is|lies inside) the input|exists already"),
}


@pytest.mark.parametrize("verb", MAKERS)
@pytest.mark.parametrize("wrong", OUTPUTS)
def test_a_dry_run_refuses_what_the_run_would_refuse(
    verb: str,
    wrong: str,
    hub: Hub,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, at = VERBS[verb].typed(hub, tmp_path)
    (tmp_path / "file").write_text("")
    here = sorted(path.name for path in tmp_path.iterdir())
    place, message = OUTPUTS[wrong]
    arguments[at] = str(place(tmp_path))
    tried = run_here(capsys, verb, *arguments, "--dry-run")
    run = run_here(capsys, verb, *arguments)
    assert refused(tried, 1, message)
    assert tried.out == ""
    assert tried.err.splitlines()[-1] == run.err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == here


@pytest.mark.parametrize("verb", MAKERS)
def test_a_dry_run_of_an_output_that_may_be_replaced_leaves_it(
    verb: str,
    hub: Hub,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, at = VERBS[verb].typed(hub, tmp_path)
    assert run_here(capsys, verb, *arguments).code == 0
    output = Path(arguments[at])
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    result = run_here(capsys, verb, *arguments, "--dry-run", "--overwrite")
    assert result.code == 0, result.err
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before


@pytest.mark.parametrize("verb", [["rescale", "--strength", "0.5"], ["resize", "--rank", "1"]])
@pytest.mark.parametrize("output", [[], ["-o", "out.safetensors"]])
def test_a_dry_run_refuses_a_format_that_is_not_written(
    verb: list[str],
    output: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_here(capsys, *verb, FIXTURES / "real/sam-vitb-lora-r2", "--dry-run", *output)
    assert refused(result, 1, "the format sam is read and not written")
    assert list(tmp_path.iterdir()) == []
