"""Exit codes are the documented ones: 1 for what a path leads to, 2 for what an option says."""

from pathlib import Path

import click
import pytest

import loratools
from loratools.cli import cli
from loratools.errors import OptionError
from tests.cli.results import refused
from tests.e2e.commands import PLAIN, SINGLE, SMALL, run_here
from tests.hub.conftest import hub, server  # noqa: F401 - fixtures
from tests.hub.server import Hub
from tests.verbs import VERBS

HUGE = "9" * 400
NUMBERS = ["nan", "inf", "-inf", "1e400", HUGE, "x", ""]
SHARES = [*NUMBERS, "-1", "2"]
COUNTS = [*NUMBERS, "-1", "0", "1.5"]
SIZES = ["0", "-1", "nan", "1e3", "1iB", "", "5", "999"]
TIES = ["combine", SMALL, SMALL, "--rank", 1, "--method"]

#: A command line, an option, and values that it cannot have.
OPTIONS = [
    (["merge", SINGLE, SMALL], "--weight", NUMBERS),
    (["merge", SINGLE, SMALL], "--block-weights", ["x", "", "1,x", "B00=nan", "XX=1"]),
    (["merge", SINGLE, SMALL, "--block-weights", "ALL"], "--block-weights", ["ALL"]),
    (["merge", SINGLE, SMALL], "--max-shard-size", SIZES),
    (["merge", SINGLE, SMALL], "--seed", ["x", "1.5"]),
    (["merge", SINGLE, SMALL], "--jobs", ["0", "-1", "x"]),
    (["merge", SINGLE, SMALL], "--dtype", ["float8"]),
    (["rescale", SMALL], "--strength", NUMBERS),
    (["rescale", SMALL], "--alpha", NUMBERS),
    (["rescale", SMALL, "--fold"], "--alpha", ["1"]),
    (["rescale", SMALL], "--block-weights", ["x", "", "1,x", "B00=nan", "XX=1"]),
    (["rescale", SMALL], "--where", ["*=nan", "*=1e400", "*=", "=1", "*"]),
    (["convert", SMALL, "--to", "peft"], "--scale", NUMBERS),
    (["convert", SMALL], "--to", ["x", ""]),
    (["convert", SMALL, "--to", "peft"], "--dtype", ["float8", "int8"]),
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


def options_of(verb: str) -> dict[str, click.Option]:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    options = [each for each in command.params if isinstance(each, click.Option)]
    return {name: option for option in options for name in option.opts}


@pytest.mark.parametrize("verb", VERBS)
def test_values_that_a_number_cannot_have_are_tried_for_every_option(verb: str) -> None:
    tried = {option for _, option, _ in OPTIONS}
    texts = (click.Path, click.Choice, type(click.STRING), type(click.BOOL))
    numbers = {
        tuple(option.opts)
        for option in options_of(verb).values()
        if not isinstance(option.type, texts)
    }
    missing = [names for names in sorted(numbers) if not tried & set(names)]
    assert missing == [], f"{verb}: add to OPTIONS what these options cannot be: {missing}"


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
    output = ["-o", tmp_path / "out"] if "-o" in options_of(str(command[0])) else []
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


@pytest.fixture
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what a verb reads, and for its output `out`."""
    return tmp_path_factory.mktemp("work")


@pytest.mark.parametrize("verb", VERBS)
def test_a_typo_in_the_path_of_any_input_is_1(
    verb: str,
    here: Path,
    work: Path,
    hub: Hub,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [verb, *VERBS[verb].arguments(hub, work)]
    inputs = [at for at, word in enumerate(command) if isinstance(word, Path) and word.exists()]
    assert inputs or verb in ("pull", "formats"), "which read no path"
    for at in inputs:
        for path in GONE:
            typo = [*command[:at], path, *command[at + 1 :]]
            assert refused(run_here(capsys, *typo), 1, "."), typo
    assert not (work / "out").exists()
    assert sorted(path.name for path in here.iterdir()) == ["circle", "file"]


@pytest.mark.parametrize("path", GONE, ids=lambda path: path[:12])
def test_a_typo_in_any_other_path_is_1(
    path: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ["inspect", PLAIN, "--base", path],
        ["inspect", PLAIN, "--config", path],
        ["merge", SINGLE, f"{path}.safetensors", "-o", "out"],
        ["push", path, "ann/plain"],
        ["push", PLAIN, "ann/plain", "--all", "--template", path],
        ["push", PLAIN, "ann/plain", "--all", "--report", path],
    ):
        assert refused(run_here(capsys, *command), 1, "."), command
    assert sorted(path.name for path in here.iterdir()) == ["circle", "file"]


#: Names that no output can have: below a file or in a circle, too long, or there already.
UNMADE = [*GONE[1:], "n" * 240, ".."]


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.writes])
def test_an_output_that_cannot_be_made_by_its_name_is_1(
    verb: str,
    here: Path,
    work: Path,
    hub: Hub,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [verb, *VERBS[verb].arguments(hub, work)]
    command[command.index("-o") + 1 :] = []
    for path in UNMADE:
        assert refused(run_here(capsys, *command, path), 1, "."), path
    assert refused(run_here(capsys, *command, ""), 2, "an empty text is no path")  # usage
    assert sorted(path.name for path in here.iterdir()) == ["circle", "file"]


@pytest.mark.parametrize("path", UNMADE, ids=lambda path: path[:12])
def test_a_pull_that_cannot_write_what_it_is_to_write_asks_no_hub(
    path: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(run_here(capsys, "pull", "ann/plain", "-o", path), 1, ".")
    if path not in {"circle", "n" * 240, ".."}:
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
