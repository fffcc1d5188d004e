"""`loratools combine` as people and scripts call it; what it shares is in `test_writing.py`."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from loratools.cli.method_options import METHODS as COMMAND_METHODS
from tests.adapters import effects, lora_of
from tests.cli.results import is_object, refused
from tests.e2e.commands import FIXTURES, PLAIN, SINGLE, SMALL, Result, digests, run_here, unchanged

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MIDDLE = FIXTURES / "adapters/combine-r8"
LARGE = FIXTURES / "adapters/combine-r16"
WHOLE = FIXTURES / "adapters/embedding-vocab"
BIASES = FIXTURES / "adapters/gpt2-bias-all"
KOHYA = FIXTURES / "kohya/sd15-locon"
METHODS = ("linear", "slerp", "knots", "ties", "dare_ties", "dare_linear", "della", "sce")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`loratools combine …` in this process; whatever happens, no traceback and no surprise."""

    def combine(*arguments: object) -> Result:
        result = run_here(capsys, "combine", *arguments)
        assert "Traceback" not in result.err
        assert result.code != 70, result.err
        return result

    return combine


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "made"


def updates(path: Path) -> dict[str, torch.Tensor]:
    """Every update in float64, by its target."""
    return effects(loratools.open_adapter(path))


def ranks(path: Path) -> dict[str, int]:
    items = loratools.open_adapter(path).updates.items()
    return {target: lora_of(update).rank for target, update in items}


def assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Equal but for the rounding of both factors to float32, of 28 products each."""
    assert found.keys() == expected.keys()
    for target, update in expected.items():
        error = float((found[target] - update).norm())
        assert error <= 2 * 28**0.5 * 2.0**-24 * float(update.norm()), target


# --- what it does --------------------------------------------------------------------------------


def test_it_says_how_adapters_go_together(run: Callable[..., Result], output: Path) -> None:
    with unchanged(SMALL, MIDDLE):
        result = run(SMALL, MIDDLE, "-w", "0.5", "-w", "0.3", "-o", output)
    assert (result.code, result.err) == (0, "")
    first, *lines = [line for line in result.out.splitlines() if line]
    assert first == "linear of 2 adapters"
    assert lines[:2] == [f"1  {SMALL} × 0.5", f"2  {MIDDLE} × 0.3"]
    assert lines[2].split() == [
        *("targets", "cosine", "opposed", "with", "1", "with", "2"),
    ]
    assert re.fullmatch(r"model\S+q_proj( +0\.\d{3}){4}", lines[3])
    assert re.fullmatch(r"model\S+k_proj( +–){3} +1\.000", lines[5]), (
        "which is the second adapter's alone"
    )
    assert lines[8].startswith("all ")
    assert lines[10].startswith(f"written: {output} (")
    assert len(lines) == 11


def test_it_says_the_method_and_the_weights_of_adapters_that_have_nothing_in_common_too(
    run: Callable[..., Result],
) -> None:
    lines = run(SMALL, "-w", 0.5, "--method", "ties", "--rank", 2, "--dry-run").out.splitlines()
    assert lines[:2] == ["ties of 1 adapter", f"1  {SMALL} × 0.5"]


def test_with_a_rank_it_says_what_was_kept(run: Callable[..., Result]) -> None:
    lines = run(SMALL, MIDDLE, "--rank", "3", "--dry-run").out.splitlines()
    assert any(re.fullmatch(r"model\S+q_proj  5  12 → 3  +\d\d\.\d+ +0\.\d+", x) for x in lines)
    assert any(re.fullmatch(r"model\S+k_proj  5   8 → 3  +\d\d\.\d+ +0\.\d+", x) for x in lines)
    assert re.fullmatch(r"kept \d\d\.\d+% of the energy, relative error 0\.\d+", lines[-2])


@pytest.mark.parametrize("weights", [(1, 1, 1), (0.5, 0.3, 2), (1, -1, 0.25), (0, 1, 0)])
def test_a_sum_is_exact(
    run: Callable[..., Result], output: Path, weights: tuple[float, float, float]
) -> None:
    flags = [word for weight in weights for word in ("-w", weight)]
    assert run(SMALL, MIDDLE, LARGE, *flags, "-o", output).code == 0
    inputs = [updates(path) for path in (SMALL, MIDDLE, LARGE)]
    expected: dict[str, torch.Tensor] = {}
    for weight, each in zip(weights, inputs, strict=True):
        for target, update in each.items():
            expected[target] = expected.get(target, torch.tensor(0)) + weight * update
    assert_near(updates(output), expected)
    assert set(ranks(output).values()) == {4 + 8 + 16, 8 + 16, 16}


def test_equal_scalings_round_nothing(run: Callable[..., Result], output: Path) -> None:
    run(SMALL, SMALL, "-o", output)
    before = loratools.open_adapter(SMALL).updates
    for target, update in loratools.open_adapter(output).updates.items():
        found, stored = lora_of(update), lora_of(before[target])
        assert found.scaling.value == stored.scaling.value
        assert torch.equal(found.up.read(), torch.cat([stored.up.read()] * 2, dim=1))
        assert torch.equal(found.down.read(), torch.cat([stored.down.read()] * 2))


@pytest.mark.parametrize("method", METHODS)
def test_one_adapter_keeps_its_bytes_or_its_updates(
    run: Callable[..., Result], output: Path, method: str
) -> None:
    rule = [] if method in ("linear", "slerp") else ["--rank", "4"]
    share = {"ties": "1", "dare_ties": "1", "dare_linear": "1", "della": "1"}.get(method)
    density = ["--density", share] if share else []
    assert run(SMALL, "--method", method, *rule, *density, "-o", output).code == 0
    if not rule:
        assert (output / WEIGHTS).read_bytes() == (SMALL / WEIGHTS).read_bytes()
    assert_near(updates(output), updates(SMALL))


def test_strengths_by_target(run: Callable[..., Result], output: Path) -> None:
    where = ["--where", "*.v_proj=0.5", "--where", "*.layers.0.*=0"]
    assert run(SMALL, MIDDLE, *where, "-o", output).code == 0
    run(SMALL, MIDDLE, "-o", output.parent / "plain")
    expected = {
        target: update * (0 if ".0." in target else 0.5 if "v_proj" in target else 1)
        for target, update in updates(output.parent / "plain").items()
    }
    assert_near(updates(output), expected)


def test_the_config_is_the_first_ones(run: Callable[..., Result], output: Path) -> None:
    run(MIDDLE, SMALL, "-o", output)
    config, first = (json.loads((f / CONFIG).read_text()) for f in (output, MIDDLE))
    assert (config["r"], config["lora_alpha"]) in {(8, 8.0), (12, 24.0)}
    patterns = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules")
    assert {k: v for k, v in config.items() if k not in patterns} == {
        k: v for k, v in first.items() if k not in patterns
    }


def test_it_merges_as_its_inputs_do(
    run: Callable[..., Result], output: Path, tmp_path: Path
) -> None:
    """But for the rounding of the merge, half a unit of each weight, and of the factors."""
    run(SMALL, MIDDLE, "-w", "0.5", "-w", "0.3", "-o", output)
    loratools.merge(SINGLE, [SMALL, MIDDLE], weights=[0.5, 0.3], output=tmp_path / "apart")
    loratools.merge(SINGLE, output, output=tmp_path / "together")
    one, other = (
        load_file(tmp_path / name / "model.safetensors") for name in ("apart", "together")
    )
    for name, weight in one.items():
        assert torch.allclose(weight, other[name], rtol=2.0**-22, atol=2.0**-30), name


def test_kohya_files_are_combined(run: Callable[..., Result], tmp_path: Path) -> None:
    output = tmp_path / "made.safetensors"
    assert run(KOHYA, KOHYA, "-w", "0.75", "-w", "0.25", "-o", output).code == 0
    found, before = updates(output), updates(KOHYA)
    for target, update in before.items():
        # One factor is rounded to float16.
        assert float((found[target] - update).norm()) <= 2.0**-11 * float(update.norm())


def test_a_size_holds_for_factors_of_two_dtypes(run: Callable[..., Result], tmp_path: Path) -> None:
    """Their sum is stored in float32, which the first adapter alone does not show."""
    for dtype in ("float16", "bfloat16"):
        folder = tmp_path / dtype
        folder.mkdir()
        values = load_file(PLAIN / WEIGHTS)
        save_file({k: v.to(getattr(torch, dtype)) for k, v in values.items()}, folder / WEIGHTS)
        (folder / CONFIG).write_bytes((PLAIN / CONFIG).read_bytes())
    output = tmp_path / "made"
    command = [tmp_path / "float16", tmp_path / "bfloat16", "--size", "100kB", "-o", output]
    found = json.loads(run(*command, "--json").out)
    assert 100_000 - 96 * 4 < found["bytes"] == (output / WEIGHTS).stat().st_size <= 100_000
    assert {value.dtype for value in load_file(output / WEIGHTS).values()} == {torch.float32}


@pytest.mark.parametrize("method", [["linear"], ["dare_ties", "--density", "0.5", "--seed", "3"]])
def test_threads_do_not_show(run: Callable[..., Result], tmp_path: Path, method: list[str]) -> None:
    for jobs in (1, 2):
        command = [SMALL, MIDDLE, "--method", *method, "--rank", "6", "--jobs", jobs]
        assert run(*command, "-o", tmp_path / str(jobs)).code == 0
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_a_seed_decides_what_is_drawn(run: Callable[..., Result], tmp_path: Path) -> None:
    command = [SMALL, MIDDLE, "--method", "dare_linear", "--rank", "6", "-o"]
    run(*command, tmp_path / "none")
    run(*command, tmp_path / "zero", "--seed", "0")
    run(*command, tmp_path / "one", "--seed", "1")
    assert digests(tmp_path / "none") == digests(tmp_path / "zero")
    assert digests(tmp_path / "none") != digests(tmp_path / "one")


@pytest.mark.parametrize("method", COMMAND_METHODS)
def test_a_method_takes_a_seed_if_it_chooses_at_random(
    run: Callable[..., Result], method: str
) -> None:
    def made(seed: int) -> dict[str, torch.Tensor]:
        combination = loratools.Combination(method=method, seed=seed)
        found = loratools.combine([SMALL, MIDDLE], rank=6, combination=combination)
        return effects(found)

    one, other = made(1), made(2)
    is_random = any(not torch.equal(one[name], other[name]) for name in one)
    result = run(SMALL, MIDDLE, "--method", method, "--rank", "6", "--seed", "1", "--dry-run")
    assert result.code == (0 if is_random else 2)
    assert ("makes no random choices" in result.err) == (not is_random)


@pytest.mark.parametrize("rule", [[], ["--rank", "3"]])
def test_json_is_one_object_of_this_form(
    run: Callable[..., Result], output: Path, rule: list[str]
) -> None:
    """The schema of `combine --json`, which scripts rely on."""
    found = json.loads(run(SMALL, MIDDLE, "-w", "1", "-w", "2", *rule, "-o", output, "--json").out)
    certificate = {"rank": int, "norm": float, "energy": float, "relative_error": float}

    def is_matrix(value: list[list[float | None]]) -> bool:
        return [len(row) for row in value] == [3, 3, 3]

    assert is_object(
        found,
        adapters=[str],
        weights=[float],
        method=str,
        output=str,
        bytes=int,
        total=(None, lambda value: is_object(value, **certificate)),
        budget_gap=float,
        targets=[lambda value: is_object(value, target=str, rank_before=int, **certificate)],
        similarity=[
            lambda value: is_object(
                value, targets=str, count=int, cosine=is_matrix, sign_conflict=is_matrix
            )
        ],
        rounding=(float, None),
        notes=[str],
    )
    assert found["adapters"] == [str(SMALL), str(MIDDLE)]
    assert found["weights"] == [1, 2]
    assert (found["total"] is None) == (not rule)
    assert len(found["targets"]) == (20 if rule else 0)


def test_json_is_valid_where_updates_are_zero_or_huge(run: Callable[..., Result]) -> None:
    for weight in ("0", "1e300"):
        result = run(SMALL, MIDDLE, "-w", "0", "-w", weight, "--json", "--dry-run")
        found = json.loads(result.out, parse_constant=pytest.fail)
        assert found["similarity"][0]["cosine"][0][2] is None


# --- whole tensors -------------------------------------------------------------------------------


def test_whole_tensors_that_are_the_same_are_kept(run: Callable[..., Result], output: Path) -> None:
    assert run(BIASES, BIASES, "-o", output).code == 0
    found = loratools.open_adapter(output).replaced
    for target, replaced in loratools.open_adapter(BIASES).replaced.items():
        assert torch.equal(found[target].source.read(), replaced.source.read())


@pytest.fixture
def biases(tmp_path: Path) -> tuple[Path, str]:
    """The same adapter with one bias moved by 1."""
    folder = tmp_path / "moved"
    folder.mkdir()
    values = load_file(BIASES / WEIGHTS)
    name = next(name for name in values if name.endswith("ln_1.bias"))
    values[name] += 1
    save_file(values, folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_bytes((BIASES / CONFIG).read_bytes())
    return folder, name.removeprefix("base_model.model.")


def test_whole_tensors_that_differ_are_refused_unless_somebody_decides(
    run: Callable[..., Result], output: Path, biases: tuple[Path, str]
) -> None:
    moved, name = biases
    assert refused(
        run(BIASES, moved, "-o", output),
        1,
        rf"^Error: {name}: takes the place of the base's tensor and differs between the adapters; "
        "--replaced first or average decides$",
    )
    assert not output.exists()


@pytest.mark.parametrize(("policy", "share"), [("first", 0), ("average", 0.5)])
def test_whole_tensors_by_decision(
    run: Callable[..., Result], output: Path, biases: tuple[Path, str], policy: str, share: float
) -> None:
    moved, name = biases
    result = run(BIASES, moved, "--replaced", policy, "-o", output)
    assert result.code == 0
    assert result.err == f"Note: {name}: the {policy} is taken\n"
    (before, after) = (
        load_file(folder / WEIGHTS)[f"base_model.model.{name}"] for folder in (BIASES, output)
    )
    assert torch.allclose(after - before, torch.full_like(before, share), atol=1e-6)


def test_whole_tensors_of_some_adapters(run: Callable[..., Result], output: Path) -> None:
    assert refused(run(SMALL, WHOLE, "-o", output), 1, "is in some of the adapters only")
    assert run(SMALL, WHOLE, "--replaced", "first", "-o", output).code == 0
    found = loratools.open_adapter(output).replaced
    assert set(found) >= {"lm_head.weight", "model.embed_tokens.weight"}


# --- what it refuses -----------------------------------------------------------------------------

USAGE = {
    "weights for others": (["-w", "1"], r"1 weight \(-w\) for 2 adapters"),
    "no number": (["-w", "heavy", "-w", "1"], "'heavy' is not a number"),
    "no method": (["--method", "average"], "'average' is not one of"),
    "no factor": (["--where", "*.q_proj"], "is not a pattern and a number"),
    "no policy": (["--replaced", "last"], "'last' is not one of"),
    "no sign": (["--majority-sign-method", "loudest"], "'loudest' is not one of"),
    "no seed": (["--seed", "x"], "'x' is not a whole number"),
    "no job": (["--jobs", "0"], "0 is not in the range"),
}


@pytest.mark.parametrize(("arguments", "says"), USAGE.values(), ids=USAGE)
def test_a_wrong_call_exits_2(
    run: Callable[..., Result], output: Path, arguments: list[str], says: str
) -> None:
    assert refused(run(SMALL, MIDDLE, *arguments, "-o", output), 2, says)
    assert not output.exists()


REFUSED = {
    "too much": (["-w", "1e300", "-w", "1", "--rank", "2"], "the update is too large"),
    "a glob for nothing": (["--where", "*.mlp.*=2"], r"'\*\.mlp\.\*' matches no target"),
    "few bytes": (["--size", "1kB"], "bytes without any factors, more than 1000"),
    "DoRA": ([FIXTURES / "adapters/dora"], "adapters/dora: .*DoRA depends on the weight"),
    "another kind of model": ([KOHYA], "for Stable Diffusion 1 or 2, and .* for a language model"),
    "the second for output": (["-o", MIDDLE, "--overwrite"], "is the input"),
    "inside the second": (["-o", MIDDLE / "out"], "lies inside the input"),
}
#: Options with a value that they cannot have.
WRONG = {
    "NaN": (["-w", "nan", "-w", "1"], "weight is a finite number, not nan"),
    "NaN in places": (["--where", "*=nan"], "strength is a finite number, not nan"),
    "a method of full rank": (["--method", "ties"], "say how many ranks to keep, with --rank"),
    "another method's option": (
        ["--density", "0.5"],
        "linear takes no --density; it takes --normalize, --lambda",
    ),
    "a density of 0": (["--method", "ties", "--density", "0", "--rank", "2"], "density is a share"),
    "a t above 1": (["--method", "slerp", "--t", "2"], "t is a number from 0 to 1, not 2.0"),
    "lambda": (["--lambda", "nan"], "lambda is a finite number, not nan"),
    "a bad rule": (["--rank", "0"], "a rank of 0 keeps nothing"),
    "two rules": (["--rank", "2", "--error", "0.5"], "--rank and --error are both given"),
    "three for slerp": ([LARGE, "--method", "slerp"], "from one adapter to another, and 3"),
    "another base's": (
        [FIXTURES / "adapters/gpt2-conv1d", "--rank", "0"],
        "a rank of 0 keeps nothing",
    ),
}


@pytest.mark.parametrize(("arguments", "says"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_exits_1_and_writes_nothing(
    run: Callable[..., Result], output: Path, arguments: list[str | Path], says: str
) -> None:
    with unchanged(SMALL, MIDDLE):
        result = run(SMALL, MIDDLE, *([] if "-o" in arguments else ["-o", output]), *arguments)
    assert refused(result, 1, says)
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(("arguments", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_exits_2_and_writes_nothing(
    run: Callable[..., Result], output: Path, arguments: list[str | Path], says: str
) -> None:
    assert refused(run(SMALL, MIDDLE, "-o", output, *arguments), 2, says)
    assert list(output.parent.iterdir()) == []


def test_weights_of_one_name_and_two_shapes_are_refused(
    run: Callable[..., Result], output: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    values = {k: v[:, :32] if "lora_A" in k else v for k, v in load_file(SMALL / WEIGHTS).items()}
    save_file({k: v.contiguous() for k, v in values.items()}, other / WEIGHTS)
    (other / CONFIG).write_bytes((SMALL / CONFIG).read_bytes())
    says = r"changes a weight \[64, 32\] in .*other and \[64, 64\] in .*; are they of one base\?"
    assert refused(run(SMALL, other, "-o", output), 1, says)
    assert not output.exists()
