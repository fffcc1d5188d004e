"""`loratools rescale` as people and scripts call it; what it shares is in `test_writing.py`."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loratools
from tests.adapters import effects
from tests.cli.results import is_object, refused
from tests.e2e.commands import FIXTURES, PLAIN, SMALL, Result, run_here, unchanged
from tests.narrowing import present

WEIGHTS = "adapter_model.safetensors"
PATTERNS = FIXTURES / "adapters/rslora-patterns"
KOHYA = FIXTURES / "kohya/sd15-locon"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`loratools rescale …` in this process; whatever happens, no traceback and no surprise."""

    def rescale(*arguments: object) -> Result:
        result = run_here(capsys, "rescale", *arguments)
        assert "Traceback" not in result.err
        assert result.code != 70, result.err
        return result

    return rescale


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "made"


def updates(path: Path) -> dict[str, torch.Tensor]:
    """Every update in float64, by its target."""
    return effects(loratools.open_adapter(path))


def test_it_says_what_updates_were_multiplied_with(
    run: Callable[..., Result], output: Path
) -> None:
    where = ["--where", "*.v_proj=0", "--where", "*.0.*=3"]
    result = run(SMALL, "--strength", "0.5", *where, "-o", output)
    assert result.code == 0
    assert result.err.startswith("Note: 4 updates change nothing: up is zero throughout")
    assert len(result.err.splitlines()) == 1
    lines = [line.rstrip() for line in result.out.splitlines() if line]
    assert re.split(r"  +", lines[0]) == ["targets", "n", "update"]
    assert [line.split("×")[-1] for line in lines[1:3]] == [" 0.5 to 1.5", " 0 to 1.5"]
    assert lines[4].startswith(f"written: {output} (")


def test_unchanged_strengths_are_called_so(run: Callable[..., Result]) -> None:
    lines = run(SMALL, "--balance", "--dry-run").out.splitlines()
    assert sum(line.endswith("  unchanged") for line in lines) == 2


@pytest.mark.parametrize("strength", [0.5, -1, 3, 0.1])
def test_a_strength_is_all_that_changes(
    run: Callable[..., Result], output: Path, strength: float
) -> None:
    with unchanged(PATTERNS):
        assert run(PATTERNS, "--strength", strength, "-o", output).code == 0
    assert (output / WEIGHTS).read_bytes() == (PATTERNS / WEIGHTS).read_bytes()
    before, after = updates(PATTERNS), updates(output)
    assert list(after) == list(before)
    for target, update in before.items():
        # The product of a strength, an alpha and one over a rank: each rounded once.
        assert torch.allclose(after[target], strength * update, rtol=2.0**-50, atol=0)


def test_a_strength_of_zero_is_in_the_factors(run: Callable[..., Result], output: Path) -> None:
    run(SMALL, "--strength", "0", "-o", output)
    config = json.loads((output / "adapter_config.json").read_text())
    before = json.loads((SMALL / "adapter_config.json").read_text())
    assert config["lora_alpha"] == before["lora_alpha"]
    values = load_file(output / WEIGHTS)
    assert all(bool(value.any()) == ("lora_A" in name) for name, value in values.items())


def test_alpha_is_set_for_all(run: Callable[..., Result], output: Path) -> None:
    found = json.loads(run(PATTERNS, "--alpha", "8", "-o", output, "--json").out)
    config = json.loads((output / "adapter_config.json").read_text())
    assert (config["lora_alpha"], config["alpha_pattern"]) == (8, {})
    # In that adapter alpha is 8, and by its pattern 3, 5 or 6.
    alphas = {round(8 / value, 9) for value in found["strengths"].values()}
    assert alphas == {3, 5, 6, 8}


@pytest.mark.parametrize("option", [["--fold"], ["--balance"], ["--rule", "rslora"]])
def test_other_ways_to_store_are_the_same_updates(
    run: Callable[..., Result], output: Path, option: list[str]
) -> None:
    assert run(PLAIN, *option, "-o", output).code == 0
    for target, update in updates(PLAIN).items():
        # Folding rounds each of 8 products of float32 numbers; the others round alpha at most.
        allowed = 8 * 2.0**-24 if option == ["--fold"] else 2.0**-50
        found = updates(output)[target]
        assert float((found - update).abs().max()) <= allowed * float(update.abs().max()) * 8


def test_an_alpha_that_its_dtype_has_not_is_stored_wider(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    """The alphas there are float16 numbers, and 0.3 times one is none."""
    output = tmp_path / "made.safetensors"
    assert run(KOHYA, "--strength", "0.3", "-o", output).code == 0
    before = load_file(KOHYA / "sd15-locon.safetensors")
    after = load_file(output)
    for name, value in before.items():
        if name.endswith(".alpha"):
            assert after[name].dtype == torch.float64
            assert after[name].item() == 0.3 * value.item()
        else:
            assert torch.equal(after[name], value)


def test_json_is_one_object_of_this_form(run: Callable[..., Result], output: Path) -> None:
    """The schema of `rescale --json`, which scripts rely on."""
    found = json.loads(run(SMALL, "--where", "*.q_proj=2", "-o", output, "--json").out)
    assert is_object(
        found,
        adapter=str,
        output=str,
        bytes=int,
        strengths=lambda strengths: {type(value) for value in strengths.values()} == {float},
        rounding=(float, None),
        repairs=lambda repairs: repairs == [],
        notes=[str],
    )
    assert found["adapter"] == str(SMALL)
    assert found["strengths"] == {
        target: 2.0 if "q_proj" in target else 1.0
        for target in loratools.open_adapter(SMALL).updates
    }


def test_json_has_null_for_a_strength_that_is_no_number(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    """From an alpha of 0 to another one."""
    config = json.loads((SMALL / "adapter_config.json").read_text()) | {"lora_alpha": 0}
    (tmp_path / "c.json").write_text(json.dumps(config))
    command = [SMALL, "--config", tmp_path / "c.json", "--alpha", "2", "--dry-run"]
    found = json.loads(run(*command, "--json").out, parse_constant=pytest.fail)
    assert set(found["strengths"].values()) == {None}
    assert "× inf" in run(*command).out


# Repairs


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """An adapter with rank stabilisation, and with an alpha of 0 for some modules."""
    folder = shutil.copytree(SMALL, tmp_path / "broken")
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"use_rslora": True, "alpha_pattern": {"q_proj": 0}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("trap", [(), ("rslora",), ("zero-alpha",), ("all",)])
def test_repair_is_of_all_traps_or_of_those_that_are_named(
    run: Callable[..., Result], broken: Path, output: Path, before: bool, trap: tuple[str, ...]
) -> None:
    options = ["--repair", *trap]
    arguments = [*options, broken] if before else [broken, *options]
    with unchanged(broken):
        found = json.loads(run(*arguments, "-o", output, "--json").out)
    repaired = {repair["trap"] for repair in found["repairs"]}
    assert repaired == ({"rslora", "zero-alpha"} if trap in ((), ("all",)) else {*trap})
    left = {note.trap for note in loratools.inspect(output).notes}
    assert left == {"rslora", "zero-alpha"} - repaired - ({None} if repaired else set())
    assert (output / WEIGHTS).read_bytes() == (broken / WEIGHTS).read_bytes()
    problems = [note for note in found["notes"] if "alpha of 0" in note]
    assert bool(problems) == ("zero-alpha" not in repaired)


def test_repair_may_name_several_traps_and_comes_before_the_strength(
    run: Callable[..., Result], broken: Path, output: Path
) -> None:
    command = ["--repair", "zero-alpha", "--repair", "rslora", "--strength", "3"]
    found = json.loads(run(broken, *command, "-o", output, "--json").out)
    alphas = {repair["after"] for repair in found["repairs"] if repair["trap"] == "zero-alpha"}
    assert len(alphas) == 1
    made = loratools.open_adapter(output)
    for target, strength in found["strengths"].items():
        assert (strength is None) == ("q_proj" in target)
        scaling = present(made.updates[target].delta.scaling)
        assert scaling.rule == "rank"
        assert ("q_proj" not in target) or scaling.value == 3


def test_report_of_a_repair_has_a_row_for_each_change(
    run: Callable[..., Result], broken: Path
) -> None:
    lines = run(broken, "--repair", "zero-alpha", "--dry-run").out.splitlines()
    assert re.split(r"  +", lines[0]) == ["repaired", "n", "before", "after"]
    assert lines[1].startswith("zero-alpha  ")


@pytest.mark.parametrize("options", [["--repair"], ["--repair", "zero-alpha"]])
def test_nothing_to_repair_is_refused(
    run: Callable[..., Result], output: Path, options: list[str]
) -> None:
    assert refused(run(SMALL, *options, "-o", output), 1, "could be repaired was found")
    assert not output.exists()


def test_report_without_a_repair_does_not_speak_of_it(run: Callable[..., Result]) -> None:
    assert "repaired" not in run(SMALL, "--strength", "2", "--dry-run").out


USAGE = {
    "nothing to do": ([], "Nothing to do: give --strength"),
    "keeping alone": (["--keep-replaced"], "Nothing to do"),
    "no number": (["--strength", "weak"], "'weak' is not a number"),
    "no glob": (["--where", "=2"], "'=2' is not a pattern and a number"),
    "no factor": (["--where", "*.mlp.*"], "is not a pattern and a number"),
    "an odd factor": (["--where", "*=much"], "is not a pattern and a number"),
    "no rule": (["--rule", "sqrt"], "'sqrt' is not one of"),
    "no trap": (["--repair=zero-alhpa"], "'zero-alhpa' is not one of"),
    "no trap, apart": (
        ["--repair", "zero-alhpa"],
        r"\(zero-alhpa\); it is no trap: all, adapter-name",
    ),
    "jobs": (["--strength", "2", "--jobs", "2"], "No such option"),
}


@pytest.mark.parametrize(("arguments", "says"), USAGE.values(), ids=USAGE)
def test_a_wrong_call_exits_2(
    run: Callable[..., Result], output: Path, arguments: list[str], says: str
) -> None:
    assert refused(run(SMALL, *arguments, "-o", output), 2, says)
    assert not output.exists()


REFUSED = {
    "too much": (
        [SMALL, "--strength", "1e308", "--alpha", "100"],
        "no number holds its alpha at this strength",
    ),
    "a glob for nothing": ([SMALL, "--where", "*.mlp.*=2"], r"'\*\.mlp\.\*' matches no target"),
    "DoRA": ([FIXTURES / "adapters/dora", "--strength", "2"], "DoRA depends on the weight"),
    "DoRA's alpha": ([FIXTURES / "adapters/dora", "--alpha", "3"], "DoRA depends on the weight"),
    "whole tensors": (
        [FIXTURES / "adapters/embedding-vocab", "--strength", "2"],
        r"lm_head\.weight, model\.embed_tokens\.weight take the place .* --keep-replaced",
    ),
    "token rows": (
        [FIXTURES / "adapters/trainable-tokens", "--alpha", "1"],
        r"model\.embed_tokens\.weight take",
    ),
}
#: Options with a value that they cannot have.
WRONG = {
    "NaN": ([SMALL, "--strength", "nan"], "is a finite number, not"),
    "infinity": ([SMALL, "--alpha", "inf"], "is a finite number, not"),
    "infinity in places": ([SMALL, "--where", "*=inf"], "is a finite number, not"),
    "folded with alpha": ([SMALL, "--fold", "--alpha", "8"], "folding sets alpha to the rank"),
    "folded for rsLoRA": ([SMALL, "--fold", "--rule", "rslora"], "folding sets alpha to the rank"),
}


@pytest.mark.parametrize(("arguments", "says"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_exits_1_and_writes_nothing(
    run: Callable[..., Result], output: Path, arguments: list[Path | str], says: str
) -> None:
    assert refused(run(*arguments, "-o", output), 1, says)
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(("arguments", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_exits_2_and_writes_nothing(
    run: Callable[..., Result], output: Path, arguments: list[Path | str], says: str
) -> None:
    assert refused(run(*arguments, "-o", output), 2, says)
    assert list(output.parent.iterdir()) == []


def test_whole_tensors_are_kept_with_a_note(run: Callable[..., Result], output: Path) -> None:
    adapter = FIXTURES / "adapters/embedding-vocab"
    result = run(adapter, "--strength", "0.5", "--keep-replaced", "-o", output)
    assert result.code == 0
    assert result.err == (
        "Note: lm_head.weight, model.embed_tokens.weight take the place of the base's tensors, at "
        "any strength\n"
    )
    replaced = loratools.open_adapter(adapter).replaced
    for target, after in loratools.open_adapter(output).replaced.items():
        assert torch.equal(after.source.read(), replaced[target].source.read())


def test_a_dora_is_stored_in_another_way(run: Callable[..., Result], output: Path) -> None:
    assert run(FIXTURES / "adapters/dora", "--balance", "--fold", "-o", output).code == 0
    assert loratools.open_adapter(output).kinds == ("DoRA",)
