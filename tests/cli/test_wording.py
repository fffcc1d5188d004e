"""What messages say and how: `run_here` checks the words of every run in these tests and others."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

import loratools
from tests.cli.results import refused
from tests.e2e.commands import SINGLE, SMALL, run_here
from tests.merged import pair, write_adapter, write_base
from tests.wording import count_faults, internal_names, lengths_beside_a_noun

ONE = ["m.a"]
SEVERAL = ["m.a", "m.b", "m.c"]


def test_a_length_before_a_noun_is_written_by_counted() -> None:
    assert list(lengths_beside_a_noun()) == []


def test_a_number_that_does_not_fit_its_noun_is_found() -> None:
    assert count_faults("1 base tensors unchanged; 2 weight, 3 matrices") == [
        "1 tensors",
        "2 weight",
    ]
    assert count_faults("1 of 1 target; 2 adapter tensors; at /x/1 tensors; 0.1 weights") == []


@pytest.mark.parametrize(("modules", "rest"), [(ONE, 0), (ONE, 1), (SEVERAL, 2)], ids=str)
def test_every_verb_counts_one_and_several(
    modules: list[str], rest: int, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run_here` finds «1 weights» and «2 weight»; and the numbers themselves are in the lines."""
    monkeypatch.chdir(tmp_path)
    names = [*modules, *(f"n.{n}" for n in range(rest))]
    write_base(Path("base"), {f"{name}.weight": torch.ones(4, 6) for name in names})
    factors = {k: v for seed, m in enumerate(modules) for k, v in pair(m, 4, 6, seed).items()}
    write_adapter(Path("adapter"), factors)
    merged, *others = [
        run_here(capsys, *command)
        for command in (
            ["merge", "base", "adapter", "-o", "merged"],
            ["merge", "base", "adapter", "--only", "m.a", "--dtype", "bfloat16", "--dry-run"],
            ["merge", "base", "adapter", "--block-weights", "rest=0", "--dry-run"],
            ["merge", "base", "adapter", "adapter", "-w", 1, "-w", -1, "--dry-run", "-v"],
            ["merge", "base", "adapter", "-w", 1, "-w", 1, "--dry-run"],
            ["merge", "base", "adapter", "adapter", "-w", 1, "--dry-run"],
            ["merge", "base", "adapter", "--in-place", "--dry-run"],
            ["swap", "base", "--in", "adapter"],
            ["swap", "base", "--out"],
            ["inspect", "adapter", "--base", "base", "--check", "--spectrum", "--modules"],
            ["rescale", "adapter", "--strength", 0.5, "-o", "rescaled"],
            ["rescale", "adapter", "--fold", "--dry-run"],
            ["resize", "adapter", "--rank", 1, "-o", "resized"],
            ["resize", "adapter", "--parameters", 1, "--min-rank", 1, "--dry-run"],
            ["resize", "adapter", "--size", 10, "--dry-run"],
            ["combine", "adapter", "adapter", "-o", "combined"],
            ["combine", "adapter", "-w", 1, "-w", 2, "--dry-run"],
            ["convert", "adapter", "--to", "comfyui", "-o", "converted.safetensors"],
            ["convert", "adapter", "--to", "kohya", "--dry-run"],
            ["svd-extract", "merged", "base", "--rank", 1, "--check", "--dry-run"],
            ["svd-extract", "merged", "base", "--rank", 1, "--skip", "m.a", "-o", "extracted"],
            ["svd-extract", "base", "base", "--rank", 1, "-o", "nothing"],
        )
    ]
    assert all(result.code != 70 for result in others)
    count, weights = len(modules), "weight" if len(modules) == 1 else "weights"
    unchanged = "1 base tensor" if rest == 1 else f"{rest} base tensors"
    said = f"{2 * count} of {2 * count} adapter tensors applied to {count} {weights}; {unchanged}"
    assert said in merged.out


def test_names_of_internals_are_found() -> None:
    for text in (
        "linear takes no density; it takes lam", "min_rank is at most 5", "is torch.float16",
        "MergeOptions has it", "PosixPath('x')", "dict_keys(['a'])", "of [nan, 0.0]",
        ".out.loratools-partial: no space left on device",
    ):  # fmt: skip
        assert internal_names(text), text
    assert (
        internal_names("--min-rank, --lambda, a shape [4, 6], lambda_x at model.lam.weight") == []
    )


def test_an_option_is_named_as_it_is_typed(capsys: Any) -> None:
    """With two dashes on the command line, and as the argument is called in Python."""
    ties = ["combine", SMALL, SMALL, "--rank", 1, "--dry-run", "--method"]
    assert refused(run_here(capsys, *ties, "ties", "--t", 0.5), 2, "takes no --t; .* --lambda")
    assert refused(run_here(capsys, *ties, "ties", "--lambda", "nan"), 2, "--lambda is a finite")
    resize = ["resize", SMALL, "--dry-run", "--rank", 1]
    assert refused(run_here(capsys, *resize, "--energy", 0.5), 2, "--rank and --energy are both")
    where = run_here(capsys, "rescale", SMALL, "--where", "*.gone=2", "--dry-run")
    assert refused(where, 1, r"^Error: --where '\*\.gone' matches no target")
    with pytest.raises(loratools.OptionError, match="lam is a finite number"):
        loratools.MethodOptions(lam=float("nan"))
    with pytest.raises(loratools.OptionError, match="min_rank is at most"):
        loratools.RankRule(min_rank=10**9)


@pytest.mark.parametrize("command", [["merge", SINGLE], ["merge", SINGLE / "model.safetensors"]])
def test_the_folder_in_which_an_output_is_made_has_the_name_of_the_output(
    command: list[object], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    output = tmp_path / "out.safetensors" if command[1] != SINGLE else tmp_path / "out"
    monkeypatch.setattr("os.fsync", full)
    result = run_here(capsys, *command, SMALL, "-o", output)
    file = output if output.suffix else output / "model.safetensors"
    assert refused(result, 4, f"^Error: {file}: no space left on device; ")
    assert list(tmp_path.iterdir()) == []


def test_weights_are_counted_in_python_too() -> None:
    with pytest.raises(loratools.OptionError, match="2 weights for 1 adapter"):
        loratools.combine(["gone"], output=None, weights=[1, 2])
