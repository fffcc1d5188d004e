"""Exit codes are the documented ones: 1 for what a path leads to, 2 for what an option says."""

from pathlib import Path

import pytest

import loratools
from loratools.errors import OptionError
from tests.cli.results import refused
from tests.e2e.commands import PLAIN, SINGLE, SMALL, run_here

HUGE = "9" * 400
NUMBERS = ["nan", "inf", "-inf", "1e400", HUGE, "x", ""]
SHARES = [*NUMBERS, "-1", "2"]
COUNTS = [*NUMBERS, "-1", "0", "1.5"]
SIZES = ["0", "-1", "nan", "1e3", "1iB", ""]
TIES = ["combine", SMALL, SMALL, "--rank", 1, "--method"]

#: A command line, an option, and values that it cannot have.
OPTIONS = [
    (["merge", SINGLE, SMALL], "--weight", NUMBERS),
    (["merge", SINGLE, SMALL], "--max-shard-size", SIZES),
    (["merge", SINGLE, SMALL], "--seed", ["x", "1.5"]),
    (["merge", SINGLE, SMALL], "--jobs", ["0", "-1", "x"]),
    (["merge", SINGLE, SMALL], "--dtype", ["float8"]),
    (["rescale", SMALL], "--strength", NUMBERS),
    (["rescale", SMALL], "--alpha", NUMBERS),
    (["rescale", SMALL, "--fold"], "--alpha", ["1"]),
    (["rescale", SMALL], "--where", ["*=nan", "*=1e400", "*=", "=1", "*"]),
    (["resize", SMALL], "--rank", COUNTS),
    (["resize", SMALL], "--parameters", ["nan", "-1", "0"]),
    (["resize", SMALL], "--max-rank", ["nan", "-1", "0"]),
    (["resize", SMALL, "--energy", 0.5], "--min-rank", ["nan", "-1", HUGE]),
    (["resize", SMALL, "--energy", 0.5], "--multiple-of", COUNTS),
    (["resize", SMALL], "--energy", [*SHARES, "0"]),
    (["resize", SMALL], "--error", SHARES),
    (["resize", SMALL], "--size", SIZES),
    (["resize", SMALL, "--rank", 1], "--energy", ["0.5"]),
    (["resize", SMALL, "--rank", 1], "--size", ["1MB"]),
    (["combine", SMALL], "--weight", NUMBERS),
    (["combine", SMALL, SMALL], "--weight", ["1"]),
    (["combine", SMALL], "--where", ["*=nan"]),
    (["combine", SMALL, SMALL], "--density", ["0.5"]),
    (["combine", SMALL, SMALL], "--method", ["ties", "sum"]),
    ([*TIES, "ties"], "--density", [*SHARES, "0"]),
    ([*TIES, "ties"], "--lambda", NUMBERS),
    ([*TIES, "breadcrumbs"], "--gamma", SHARES),
    ([*TIES, "della"], "--epsilon", SHARES),
    ([*TIES, "sce"], "--select-topk", [*SHARES, "0"]),
    ([*TIES, "slerp"], "--t", SHARES),
    (["svd-extract", SINGLE, SINGLE], "--rank", COUNTS),
    (["svd-extract", SINGLE, SINGLE, "--rank", 1], "--min-change", [*NUMBERS, "-1"]),
    (["push", PLAIN, "ann/plain", "--pr"], "--tag", ["v1"]),
]


@pytest.mark.parametrize(
    ("command", "option", "values"), OPTIONS, ids=lambda value: value if type(value) is str else ""
)
def test_a_value_that_an_option_cannot_have_is_2(
    command: list[str | Path | float],
    option: str,
    values: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever else the command line says, and before anything is read."""
    output = [] if command[0] == "push" else ["-o", tmp_path / "out"]
    for value in values:
        assert refused(run_here(capsys, *command, *output, f"{option}={value}"), 2, "."), value
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_weight_that_is_no_number_is_refused_up_front(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dry_run: bool
) -> None:
    """Not by its results, of which a dry run has none; nor after a base has been opened."""
    options = ["--dry-run"] if dry_run else ["-o", tmp_path / "out"]
    result = run_here(capsys, "merge", "gone", "gone", "-w", "nan", *options)
    assert refused(result, 2, "weight is a finite number, not nan")
    for verb in (
        lambda **to: loratools.merge("gone", "gone", **to),
        lambda **to: loratools.combine(["gone"], **to),
    ):
        with pytest.raises(OptionError, match="weight is a finite number, not inf"):
            verb(output=None, weights=[float("inf")])


def test_a_size_has_any_number_of_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in (f"{HUGE}MB", "0.1" + "0" * 400 + "GB"):
        result = run_here(capsys, "resize", SMALL, "--size", size, "-o", tmp_path / size[:5])
        assert result.code == 0, result.err


#: Paths, in a folder with a file and a link in a circle, under which nothing is.
GONE = ["gone", "gone/gone", "file/gone", "file/gone/gone", "n" * 300, "circle", "circle/gone"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to("circle")
    return tmp_path


@pytest.mark.parametrize("path", GONE, ids=lambda path: path[:12])
def test_a_typo_in_a_path_is_1(path: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["inspect", path],
        ["inspect", PLAIN, "--base", path],
        ["inspect", PLAIN, "--config", path],
        ["merge", path, PLAIN, "-o", "out"],
        ["merge", SINGLE, path, "-o", "out"],
        ["merge", SINGLE, f"{path}.safetensors", "-o", "out"],
        ["rescale", path, "--strength", 2, "-o", "out"],
        ["resize", path, "--rank", 1, "-o", "out"],
        ["combine", PLAIN, path, "-o", "out"],
        ["svd-extract", path, SINGLE, "--rank", 1, "-o", "out"],
        ["svd-extract", SINGLE, path, "--rank", 1, "-o", "out"],
        ["push", path, "ann/plain"],
        ["push", PLAIN, "ann/plain", "--all", "--template", path],
        ["push", PLAIN, "ann/plain", "--all", "--report", path],
    ):
        assert refused(run_here(capsys, *command), 1, "."), command
    assert sorted(path.name for path in here.iterdir()) == ["circle", "file"]


@pytest.mark.parametrize("path", [*GONE[1:], "n" * 240, "..", ""], ids=lambda path: path[:12])
def test_an_output_that_cannot_be_made_by_its_name_is_1(
    path: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ["merge", SINGLE, PLAIN],
        ["rescale", PLAIN, "--strength", 2],
        ["resize", PLAIN, "--rank", 1],
        ["combine", PLAIN],
        ["svd-extract", SINGLE, SINGLE, "--rank", 1],
        ["pull", "ann/plain"],
    ):
        assert refused(run_here(capsys, *command, "-o", path), 1, "."), command
    if path not in {"circle", "n" * 240, "..", ""}:
        assert refused(run_here(capsys, "pull", "ann/plain", "--lock", path), 1, ".")
    assert sorted(path.name for path in here.iterdir()) == ["circle", "file"]


def test_a_nul_in_a_path_is_a_typo_too(tmp_path: Path) -> None:
    """Which no command line can have, but a program."""
    with pytest.raises(loratools.LoratoolsError, match=r"no such file|null"):
        loratools.inspect("a\0b")
    with pytest.raises(loratools.LoratoolsError, match=r"no such file|null"):
        loratools.merge("a\0b", PLAIN, output=tmp_path / "out")
    with pytest.raises(loratools.LoratoolsError, match="null"):
        loratools.rescale(
            PLAIN, output=tmp_path / "a\0b", rescaling=loratools.Rescaling(strength=2)
        )
