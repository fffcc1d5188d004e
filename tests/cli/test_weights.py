"""Weights as image makers write them: `-w 0.7,0.3`, or `ADAPTER:0.7`."""

import ntpath
import os
import shutil
from pathlib import Path

import click
import pytest

from loratools.cli.weights import weighted
from tests.cli.results import refused
from tests.e2e.commands import PLAIN, SINGLE, SMALL, digests, run_here


@pytest.mark.parametrize(
    ("adapters", "names", "weights"),
    [
        (["a:0.7"], ["a"], [0.7]),
        (["a:0.7", "b"], ["a", "b"], [0.7, 1]),
        (["a", "b"], ["a", "b"], []),
        (["a:0", "b:-1"], ["a", "b"], [0, -1]),
        (["a:1e-3"], ["a"], [0.001]),
        (["folder:x/a.safetensors:.5"], ["folder:x/a.safetensors"], [0.5]),
        (["hf://o/n@rev:0.7"], ["hf://o/n@rev"], [0.7]),
        (["hf://o/n"], ["hf://o/n"], []),
        (["hf://o/n/a.safetensors:2"], ["hf://o/n/a.safetensors"], [2]),
        ([r"C:\x\a.safetensors"], [r"C:\x\a.safetensors"], []),
        ([r"C:\x\a.safetensors:0.7"], [r"C:\x\a.safetensors"], [0.7]),
        (["a:"], ["a:"], []),
        (["a:x"], ["a:x"], []),
    ],
)
def test_a_number_after_the_last_colon_is_the_weight(
    adapters: list[str], names: list[str], weights: list[float]
) -> None:
    assert weighted(adapters, ()) == (tuple(names), tuple(weights))


def test_a_drive_on_windows_is_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, `C:1` is the file 1 in the current folder of the drive."""
    monkeypatch.setattr(os.path, "splitdrive", ntpath.splitdrive)
    assert weighted(["C:1", "C:x:0.5", r"C:\x:2"], ()) == (("C:1", "C:x", r"C:\x"), (1, 0.5, 2))


def test_a_path_that_exists_is_a_name_whatever_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "a:0.7"):
        (tmp_path / name).touch()
    assert weighted(["a:0.7"], ()) == (("a:0.7",), ())
    assert weighted(["a:0.7:0.5"], ()) == (("a:0.7",), (0.5,))
    assert weighted(["a:0.6"], ()) == (("a",), (0.6,))


def test_weights_in_both_ways_are_refused() -> None:
    with pytest.raises(click.UsageError, match=r"'b:0' has its weight after the colon, and -w"):
        weighted(["a", "b:0"], (1.0, 1.0))


@pytest.mark.parametrize("written", [":half", ":", ":0,7", "@0.7", "*0.7", "=0.7", ": 50%"])
def test_what_follows_a_name_and_is_no_weight_is_answered_by_how_to_write_one(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    with pytest.raises(click.UsageError, match=r"number after a colon; write for example a:0\.7$"):
        weighted([f"a{written}"], ())
    Path(f"a{written}").mkdir()
    assert weighted([f"a{written}"], ()) == ((f"a{written}",), ())


@pytest.mark.parametrize("number", ["0.3", "-1", ".5", "70%", "0,7", "0.7,"])
def test_a_number_in_the_place_of_an_adapter_is_answered_by_how_weights_are_written(
    number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(click.UsageError, match=r"in the place of an adapter; .*\(-w 0\.7,0\.3\)"):
        weighted([number, "a", "b"], (0.7,))
    Path(number).mkdir()
    assert weighted([number, "a"], (0.7, 0.3)) == ((number, "a"), (0.7, 0.3))


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("<lora:style:0.7>", "style.safetensors:0.7"),
        ("<lora:style>", "style.safetensors:1"),
        ("<lyco:my style.safetensors:0.7:0.5>", "my style.safetensors:0.7"),
    ],
)
def test_a_part_of_a_prompt_is_answered_by_the_file_and_its_weight(prompt: str, says: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        weighted(["a", prompt], ())
    assert str(caught.value).endswith(f"name the file, as in {says}")


@pytest.mark.parametrize("verb", ["merge", "combine", "swap"])
def test_every_way_to_write_weights_gives_the_same_bytes(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways: tuple[tuple[list[object], list[str]], ...] = (
        ([f"{PLAIN}:0.7", f"{SMALL}:0.3"], []),
        ([PLAIN, SMALL], ["-w", "0.7,0.3"]),
        ([PLAIN, SMALL], ["-w", "0.7", "-w", "0.3"]),
        ([PLAIN, SMALL], ["--weight=0.7", "--weight=0.3"]),
    )
    outputs = []
    for number, (adapters, options) in enumerate(ways):
        output = tmp_path / str(number)
        command: list[object] = [verb, *adapters, "-o", output]
        if verb == "merge":
            command.insert(1, SINGLE)
        if verb == "swap":
            shutil.copytree(SINGLE, output)
            command = [verb, output, *(part for each in adapters for part in ("--in", each))]
        result = run_here(capsys, *command, *options)
        assert result.code == 0, result.err
        outputs.append(digests(output))
    assert outputs == [outputs[0]] * len(ways)
    assert outputs[0] != digests(SINGLE)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-w", "0.7,"], "'0.7,' is not a number, nor a list without spaces"),
        (["-w", "0.7;0.3"], "is not a number, nor a list"),
        (["-w", "0.7,0.3"], "2 weights"),
        (["-w", "0.7,nan"], "2 weights"),
        (["-w", "nan"], "weight is a finite number, not nan"),
    ],
)
def test_weights_that_are_none_are_refused(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(run_here(capsys, "merge", SINGLE, PLAIN, "--dry-run", *options), 2, says)


def test_a_weight_after_a_colon_that_is_not_finite_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = run_here(capsys, "merge", SINGLE, f"{PLAIN}:nan", "--dry-run")
    assert refused(result, 2, "weight is a finite number, not nan")


def test_a_weight_without_an_adapter_is_refused() -> None:
    with pytest.raises(click.UsageError, match=r"':0\.7' has a weight and no adapter"):
        weighted([":0.7"], ())
