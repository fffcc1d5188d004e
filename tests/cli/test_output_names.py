"""A folder that is named like a file is refused, and a file like a folder, with the right name."""

from pathlib import Path

import pytest

from tests.cli.results import refused
from tests.e2e.commands import FIXTURES, SINGLE, SMALL, run_here
from tests.hub.conftest import hub, server  # noqa: F401 - fixtures
from tests.hub.server import Hub
from tests.verbs import VERBS

KOHYA = FIXTURES / "kohya/sd15-locon"
WEIGHTS = SINGLE / "model.safetensors"
FOLDERS = [name for name, verb in VERBS.items() if verb.writes]
#: Commands whose output is a file.
FILES = {
    "merge": ["merge", WEIGHTS, SMALL],
    "rescale": ["rescale", KOHYA, "--strength", 0.5],
    "resize": ["resize", KOHYA, "--rank", 1],
    "combine": ["combine", KOHYA, KOHYA],
    "convert to kohya": ["convert", KOHYA, "--to", "kohya"],
}


@pytest.mark.parametrize("verb", FOLDERS)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_folder_is_not_named_like_a_file_of_weights(
    verb: str,
    suffix: str,
    hub: Hub,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, at = VERBS[verb].typed(hub, tmp_path)
    here = sorted(path.name for path in tmp_path.iterdir())
    wrong = [*arguments[:at], f"{arguments[at]}{suffix}", *arguments[at + 1 :]]
    result = run_here(capsys, verb, *wrong)
    assert refused(result, 1, "the output is a folder, .* name it .*/out$")
    assert sorted(path.name for path in tmp_path.iterdir()) == here
    arguments[at] = result.err.strip().rpartition("name it ")[2]
    assert run_here(capsys, verb, *arguments).code == 0


@pytest.mark.parametrize("command", FILES.values(), ids=FILES)
@pytest.mark.parametrize("name", ["out", "out.bin", "out.v1"])
def test_a_file_is_named_with_its_suffix(
    command: list[object], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_here(capsys, *command, "-o", tmp_path / name)
    assert refused(result, 1, r"the output is a safetensors file; name it .*\.safetensors$")
    assert list(tmp_path.iterdir()) == []
    advised = result.err.strip().rpartition("name it ")[2]
    assert run_here(capsys, *command, "-o", advised).code == 0
    assert list(tmp_path.iterdir()) == [Path(advised)]
