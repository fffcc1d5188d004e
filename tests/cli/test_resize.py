"""`loratools resize` as people and scripts call it; what it shares is in `test_writing.py`."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import loratools
from tests.adapters import effects, lora_of
from tests.cli.results import is_object, refused
from tests.e2e.commands import FIXTURES, PLAIN, SMALL, Result, digests, run_here, unchanged
from tests.narrowing import present

WEIGHTS = "adapter_model.safetensors"
LARGE = FIXTURES / "adapters/combine-r16"
KOHYA = FIXTURES / "kohya/sd15-locon"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`loratools resize …` in this process; whatever happens, no traceback and no surprise."""

    def resize(*arguments: object) -> Result:
        result = run_here(capsys, "resize", *arguments)
        assert "Traceback" not in result.err
        assert result.code != 70, result.err
        return result

    return resize


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "made"


def updates(path: Path) -> dict[str, torch.Tensor]:
    """Every update in float64, by its target."""
    return effects(loratools.open_adapter(path))


def ranks(path: Path) -> list[int]:
    return [lora_of(update).rank for update in loratools.open_adapter(path).updates.values()]


def test_it_says_what_was_kept(run: Callable[..., Result], output: Path) -> None:
    result = run(SMALL, "--rank", "2", "-o", output)
    assert (result.code, result.err) == (0, "")
    lines = [line for line in result.out.splitlines() if line]
    assert re.split(r"  +", lines[0]) == ["targets", "n", "rank", "energy %", "rel. error"]
    pattern = r"model\.layers\.\*\.self_attn\.[qv]_proj  5  4 → 2  +\d\d\.\d+ +0\.\d+"
    assert all(re.fullmatch(pattern, line) for line in lines[1:3])
    assert re.fullmatch(r"kept 77\.79% of the energy, relative error 0\.471", lines[4])
    assert lines[5].startswith(f"written: {output} (")


def test_modules_are_shown_one_by_one(run: Callable[..., Result]) -> None:
    lines = run(SMALL, "--rank", "2", "--modules", "--dry-run").out.splitlines()
    rows = [line for line in lines if line.startswith("model.layers.")]
    assert [row.split()[0] for row in rows] == [
        target.removesuffix(".weight") for target in loratools.open_adapter(SMALL).updates
    ]
    assert all(row.split()[1:4] == ["4", "→", "2"] for row in rows)


def test_the_certificate_is_true_of_the_file(run: Callable[..., Result], output: Path) -> None:
    """But for the rounding of both factors to float32, each 2^-24 of its size."""
    found = json.loads(run(LARGE, "--energy", "0.8", "-o", output, "--json").out)
    before, after = updates(LARGE), updates(output)
    for row in found["targets"]:
        update = before[row["target"]]
        norm = float(update.norm())
        error = float((after[row["target"]] - update).norm()) / norm
        assert row["norm"] == pytest.approx(norm, rel=1e-12)
        assert row["relative_error"] == pytest.approx(error, abs=2 * 2.0**-24)
        assert row["energy"] == pytest.approx(1 - row["relative_error"] ** 2, abs=1e-15)
        assert row["energy"] >= 0.8
    assert [row["rank"] for row in found["targets"]] == ranks(output)
    assert found["total"]["rank"] == sum(ranks(output))


RULES = {
    "rank": (["--rank", "3"], {3}),
    "a higher rank": (["--rank", "20"], {20}),
    "everything": (["--energy", "1"], {16}),
    "no error": (["--error", "0"], {16}),
    "nearly nothing": (["--energy", "1e-9"], {1}),
    "a largest": (["--max-rank", "5"], {5}),
    "a smallest": (["--energy", "1e-9", "--min-rank", "4"], {4}),
    "a multiple": (["--energy", "0.9", "--multiple-of", "8"], {8, 16}),
    "uniform": (["--energy", "0.9", "--uniform"], {9}),
    "elements for all": (["--parameters", str(10**9)], {16}),
    "elements for one rank each": (["--parameters", "5780"], {1}),
    "uniform elements": (["--parameters", str(5780 * 4 + 5779), "--uniform"], {4}),
}


@pytest.mark.parametrize(("rule", "expected"), RULES.values(), ids=RULES)
def test_a_rule_gives_the_ranks(
    run: Callable[..., Result], output: Path, rule: list[str], expected: set[int]
) -> None:
    with unchanged(LARGE):
        assert run(LARGE, *rule, "-o", output).code == 0
    assert set(ranks(output)) == expected


@pytest.mark.parametrize("rule", [["--rank", "16"], ["--energy", "1"], ["--min-rank", "2"]])
def test_an_adapter_at_its_own_ranks_keeps_its_bytes(
    run: Callable[..., Result], output: Path, rule: list[str]
) -> None:
    run(LARGE, *rule, "-o", output)
    assert (output / WEIGHTS).read_bytes() == (LARGE / WEIGHTS).read_bytes()


def test_a_rank_that_grows_is_filled_with_zeros(run: Callable[..., Result], output: Path) -> None:
    run(SMALL, "--rank", "7", "-o", output)
    before, after = updates(SMALL), updates(output)
    for target, effect in before.items():
        assert torch.allclose(after[target], effect, rtol=2.0**-48, atol=0)
    for update in loratools.open_adapter(output).updates.values():
        lora = lora_of(update)
        assert not lora.up.read()[:, 4:].any()
        assert not lora.down.read()[4:].any()


@pytest.mark.parametrize("size", [60_000, 100_000, 101_168])
def test_a_size_is_that_of_the_file(run: Callable[..., Result], output: Path, size: int) -> None:
    found = json.loads(run(PLAIN, "--size", size, "-o", output, "--json").out)
    assert found["bytes"] == (output / WEIGHTS).stat().st_size
    # No more than one rank of the smallest targets is left over: 64 + 32 numbers.
    assert size - 96 * 4 < found["bytes"] <= size


def test_a_size_has_a_unit(run: Callable[..., Result], tmp_path: Path) -> None:
    for name, size in (("one", "0.1MB"), ("other", "100000"), ("third", "97.65625KiB")):
        run(PLAIN, "--size", size, "-o", tmp_path / name)
    assert digests(tmp_path / "one") == digests(tmp_path / "other") == digests(tmp_path / "third")


def test_metadata_that_speaks_of_ranks_is_true(run: Callable[..., Result], tmp_path: Path) -> None:
    output = tmp_path / "made.safetensors"
    assert run(KOHYA, "--rank", "1", "-o", output).code == 0
    metadata = present(loratools.open_adapter(output).filed).metadata
    assert metadata["ss_network_dim"] == "1"
    assert json.loads(metadata["ss_network_args"])["conv_dim"] == "1"
    assert loratools.open_adapter(output).notes == ()


@pytest.mark.parametrize("rule", [["--rank", "3"], ["--size", "100kB"]])
def test_threads_do_not_show(run: Callable[..., Result], tmp_path: Path, rule: list[str]) -> None:
    for jobs in (1, 2):
        run(PLAIN, *rule, "--jobs", jobs, "-o", tmp_path / str(jobs))
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_json_is_one_object_of_this_form(run: Callable[..., Result], output: Path) -> None:
    """The schema of `resize --json`, which scripts rely on."""
    found = json.loads(run(SMALL, "--rank", "2", "-o", output, "--json").out)
    certificate = {"rank": int, "norm": float, "energy": float, "relative_error": float}
    assert is_object(
        found,
        adapter=str,
        output=str,
        bytes=int,
        total=lambda value: is_object(value, **certificate),
        budget_gap=float,
        targets=[lambda value: is_object(value, target=str, rank_before=int, **certificate)],
        rounding=(float, None),
        notes=[str],
    )
    assert len(found["targets"]) == 10


def test_dora_is_resized_with_a_note(run: Callable[..., Result], output: Path) -> None:
    result = run(FIXTURES / "adapters/dora", "--rank", "2", "-o", output)
    assert result.code == 0
    assert result.err.startswith("Note: DoRA: energy and error are those of the low-rank part")
    adapter = loratools.open_adapter(output)
    assert adapter.kinds == ("DoRA",)
    assert set(ranks(output)) == {2}


USAGE = {
    "no rule": ([], "Say how many ranks to keep"),
    "no rank": (["--rank", "half"], "'half' is not a whole number"),
    "no share": (["--energy", "most"], "'most' is not a number"),
    "no size": (["--size", "small"], "'small' is not a size like 500MB"),
    "no byte": (["--size", "0.1B"], "less than a byte"),
    "no unit": (["--size", "0.1"], "did you mean 0.1MB"),
    "no job": (["--rank", "2", "--jobs", "0"], "0 is not in the range"),
}


@pytest.mark.parametrize(("arguments", "says"), USAGE.values(), ids=USAGE)
def test_a_wrong_call_exits_2(
    run: Callable[..., Result], output: Path, arguments: list[str], says: str
) -> None:
    assert refused(run(SMALL, *arguments, "-o", output), 2, says)
    assert not output.exists()


BAD_RULES = {
    "rank 0": (["--rank", "0"], "a rank of 0 keeps nothing; use 1 or more"),
    "a negative rank": (["--rank", "-1"], "a rank of -1 keeps nothing"),
    "no energy": (["--energy", "0"], "energy is a share above 0 and at most 1, not 0.0"),
    "too much energy": (["--energy", "90"], r"share .* at most 1, not 90.0; did you mean 0\.9\?"),
    "NaN": (["--energy", "nan"], "energy is a share .* not nan"),
    "all wrong": (["--error", "1"], "error is a share from 0 to below 1, not 1.0"),
    "two goals": (["--rank", "2", "--energy", "0.5"], "--rank and --energy are both given"),
    "two budgets": (["--size", "9kB", "--parameters", "9"], "are both given; use one of them"),
    "a goal and a size": (["--size", "9kB", "--rank", "2"], "--size and --rank are both given"),
    "a bounded rank": (["--rank", "2", "--max-rank", "3"], "a fixed rank of 2 leaves no choice"),
    "crossed bounds": (["--min-rank", "3", "--max-rank", "2"], "no rank is a multiple of 1"),
    "no multiple": (["--multiple-of", "4", "--max-rank", "3"], "no rank is a multiple of 4"),
    "multiples of 0": (["--multiple-of", "0"], "ranks cannot be multiples of 0"),
    "a negative bound": (["--min-rank", "-1"], "the smallest rank is -1; use 0 or more"),
    "no elements": (["--parameters", "0"], "a budget of 0 elements keeps nothing"),
    "a wide rank": (["--rank", str(10**12)], "rank is at most 1000000, not 1000000000000"),
    "a wide bound": (["--min-rank", str(2**63)], f"--min-rank is at most 1000000, not {2**63}"),
    "wide multiples": (["--multiple-of", "1" * 99], "--multiple-of is at most 1000000, not 1111"),
}
#: Rules that ask too much of this adapter.
HARD_RULES = {
    "few elements": (["--parameters", "99"], "takes 1120 elements, more than the budget of 99"),
    "few bytes": (["--size", "3kB"], r"takes 1120 elements, more than the budget of \d+"),
    "no bytes": (["--size", "10B"], r"\d+ bytes without any factors, more than 10"),
}


@pytest.mark.parametrize(("rule", "says"), BAD_RULES.values(), ids=BAD_RULES)
def test_a_rule_that_cannot_be_is_one_line(
    run: Callable[..., Result], output: Path, rule: list[str], says: str
) -> None:
    assert refused(run(SMALL, *rule, "-o", output), 2, says)
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(("rule", "says"), HARD_RULES.values(), ids=HARD_RULES)
def test_a_rule_that_nothing_fits_exits_1(
    run: Callable[..., Result], output: Path, rule: list[str], says: str
) -> None:
    assert refused(run(SMALL, *rule, "-o", output), 1, says)
    assert list(output.parent.iterdir()) == []
