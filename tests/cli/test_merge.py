"""`loratools merge` as people and scripts call it: exit codes, stdout and stderr apart."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from loratools.cli.failures import Stopped
from tests.cli.results import is_object, refused
from tests.e2e.commands import (
    FIXTURES,
    PLAIN,
    SHARDED,
    SINGLE,
    SMALL,
    Result,
    digests,
    run_apart,
    run_here,
    unchanged,
)
from tests.hostile.checkpoints import lora, write_adapter, write_json, write_safetensors

WEIGHTS = "model.safetensors"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`loratools merge …` in this process; whatever happens, no traceback and no surprise."""

    def merge(*arguments: Path | str) -> Result:
        result = run_here(capsys, "merge", *arguments)
        assert "Traceback" not in result.err
        assert result.code != 70, result.err
        return result

    return merge


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "merged"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()
    }


# --- what it does --------------------------------------------------------------------------------


def test_it_accounts_for_every_tensor_and_says_where_the_result_is(
    run: Callable[..., Result], output: Path
) -> None:
    with unchanged(SHARDED, SMALL):
        result = run(SHARDED, SMALL, "-o", output)
    assert result.code == 0
    accounting, fidelity, written = result.out.splitlines()
    assert accounting == (
        "20 of 20 adapter tensors applied to 10 weights; 37 base tensors unchanged"
    )
    assert re.fullmatch(
        r"fidelity: \d+(\.\d+)?% of the update lost to rounding, cosine 0\.\d{6}", fidelity
    )
    assert written.startswith(f"written: {output} (")
    assert re.match(r"Warning: \d\d% of the update is lost to rounding: ", result.err)
    assert sorted(path.name for path in output.iterdir()) == sorted(
        path.name for path in SHARDED.iterdir()
    )
    assert os.listdir(output.parent) == ["merged"]  # noqa: PTH208


def test_verbose_shows_every_changed_weight(run: Callable[..., Result], output: Path) -> None:
    lines = run(SHARDED, SMALL, "-v", "-o", output).out.splitlines()
    assert re.split(r"  +", lines[0]) == ["weight", "change", "lost %"]
    pattern = r"model\.layers\.\d\.self_attn\.[qv]_proj\.weight  LoRA   +\d+(\.\d+)?"
    assert all(re.fullmatch(pattern, line) for line in lines[1:11])
    assert lines[11:13] == ["(lost %: share of the update lost to rounding)", ""]
    assert len(lines) == 13 + 3


def test_a_dry_run_writes_nothing_and_says_the_same(
    run: Callable[..., Result], output: Path, tmp_path: Path
) -> None:
    planned = run(SINGLE, PLAIN, "--dry-run")
    assert planned.code == 0
    assert planned.out.splitlines()[-1] == "dry run: nothing written"
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    assert run(SINGLE, PLAIN, "--dry-run", "-o", output).out == planned.out
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    done = run(SINGLE, PLAIN, "-o", output)
    accounting = next(line for line in planned.out.splitlines() if line.startswith("70 of 70"))
    assert done.out.splitlines()[0] == accounting


@pytest.mark.parametrize("dry", [False, True])
def test_json_is_one_object_of_this_form(
    run: Callable[..., Result], output: Path, dry: bool
) -> None:
    """The schema of `merge --json`, which scripts rely on."""
    result = run(
        SINGLE, SMALL, PLAIN, "-w", "0.5", "-w", "1", "--json", "-o", output, *["--dry-run"] * dry
    )
    assert result.err == ""

    def is_fidelity(value: dict[str, float] | None) -> bool:
        return value is None or is_object(value, relative_error=float, cosine=float, kept=float)

    def is_adapter(value: dict[str, Any]) -> bool:
        return is_object(
            value,
            path=str,
            weight=float,
            block_weights=lambda weights: weights == {},
            kinds=[str],
            alpha_from=[str],
            notes=[is_note],
        )

    def is_note(value: dict[str, Any]) -> bool:
        return is_object(value, severity=str, message=str, trap=(str, None))

    def is_accounting(value: dict[str, Any]) -> bool:
        return is_object(
            value,
            adapter_tensors=int,
            applied=int,
            changing_nothing=lambda reasons: reasons == {},
            skipped=[str],
            weightless=[str],
            unmatched=[str],
            inert=lambda reasons: all(type(reason) is str for reason in reasons.values()),
            weights_changed=int,
            base_tensors_unchanged=int,
        )

    def is_change(value: dict[str, Any]) -> bool:
        return is_object(
            value,
            adapter=int,
            target=str,
            kind=str,
            strength=float,
            renaming=(str, None),
            transposed=bool,
        )

    def is_tensor(value: dict[str, Any]) -> bool:
        return is_object(
            value,
            name=str,
            dtype=str,
            shape=[int],
            replaced=bool,
            changes=[is_change],
            fidelity=is_fidelity,
        )

    found = json.loads(result.out)
    assert is_object(
        found,
        output=(str, None),
        base=str,
        recognised=(str, None),
        adapters=[is_adapter],
        accounting=is_accounting,
        tensors=[is_tensor],
        packed=lambda counts: counts == [],
        fidelity=is_fidelity,
        taken_back=[],
        equals_base=bool,
        overlay=bool,
        files=lambda sizes: all(type(size) is int for size in sizes.values()),
        files_left_out=[str],
        notes=[str],
        warnings=[str],
    )
    assert found["output"] == (None if dry else str(output))
    assert (found["fidelity"] is None) == dry
    assert found["adapters"][0] == {
        "path": str(SMALL),
        "weight": 0.5,
        "block_weights": {},
        "kinds": ["LoRA"],
        "alpha_from": ["config"],
        "notes": [],
    }
    accounting = found["accounting"]
    assert accounting["applied"] == accounting["adapter_tensors"] == 90
    assert accounting["weights_changed"] == len(found["tensors"]) == 35
    assert found["tensors"][0]["dtype"] == "float32"
    if not dry:
        assert found["files"] == {WEIGHTS: (output / WEIGHTS).stat().st_size}


def test_json_of_a_single_file_names_the_file_that_is_there(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    output = tmp_path / "merged.safetensors"
    found = json.loads(run(SINGLE / WEIGHTS, SMALL, "-o", output, "--json").out)
    assert found["files"] == {"merged.safetensors": output.stat().st_size}
    assert tensors(tmp_path).keys() == load_file(SINGLE / WEIGHTS).keys()


def test_a_weight_multiplies_its_update(run: Callable[..., Result], tmp_path: Path) -> None:
    """Exact but for the one rounding of each result: half a unit in the last place of each."""
    base = tensors(SINGLE)
    for text in ("1", "2", "-0.5"):
        run(SINGLE, PLAIN, "-w", text, "-o", tmp_path / text)
    one = tensors(tmp_path / "1")
    for name, value in base.items():
        update = one[name].double() - value.double()
        for weight in (2, -0.5):
            expected = value.double() + weight * update
            found = tensors(tmp_path / f"{weight:g}")[name].double()
            unit = 2.0**-24 * torch.maximum(expected.abs(), one[name].double().abs())
            assert ((found - expected).abs() <= (1 + abs(weight)) * unit).all()


@pytest.mark.parametrize("kind", ["--only", "--skip"])
def test_globs_choose_the_weights(run: Callable[..., Result], output: Path, kind: str) -> None:
    result = run(SHARDED, SMALL, kind, "*.q_proj.weight", "-o", output)
    base, merged = tensors(SHARDED), tensors(output)
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    projection = "q_proj" if kind == "--only" else "v_proj"
    assert changed == {f"model.layers.{n}.self_attn.{projection}.weight" for n in range(5)}
    assert "10 of 20 adapter tensors applied to 5 weights; 42 base" in result.out
    assert "10 adapter tensors skipped as asked" in result.out


@pytest.mark.parametrize(
    ("option", "glob", "message"),
    [
        ("--only", "nothing*", "--only 'nothing*' matches no target; nearest: model.layers.0."),
        ("--skip", "model.layers.0", "did you mean 'model.layers.0.*'?"),
        ("--skip", "*", "no adapter tensor is left to apply"),
    ],
)
def test_a_merge_of_nothing_is_refused(
    run: Callable[..., Result], output: Path, option: str, glob: str, message: str
) -> None:
    result = run(SHARDED, SMALL, option, glob, "-o", output)
    assert refused(result, 1, re.escape(message))
    assert not output.exists()


@pytest.fixture
def strange(tmp_path: Path) -> tuple[Path, Path]:
    """An adapter on a weight that its base has, and on another that it has not."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    write_safetensors(base / WEIGHTS, {"q.weight": ("BF16", (8, 8)), "k.weight": ("F32", (8, 8))})
    write_json(base / "config.json", {"model_type": "odd", "torch_dtype": "bfloat16"})
    write_adapter(adapter, lora("q", (8, 8)) | lora("gone", (8, 8)))
    return base, adapter


def test_updates_without_a_weight_are_left_out_only_when_asked(
    run: Callable[..., Result], output: Path, strange: tuple[Path, Path]
) -> None:
    assert refused(run(*strange, "-o", output), 1, "gone")
    assert not output.exists()
    result = run(*strange, "-o", output, "--allow-unmatched")
    assert result.code == 0
    assert "2 of 4 adapter tensors applied to 1 weight; 1 base" in result.out
    assert "2 adapter tensors left out without a match" in result.out
    assert "Note: left out: gone" in result.err


@pytest.mark.parametrize(
    ("choice", "dtype"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_a_dtype_is_that_of_all_float_weights_and_of_the_config(
    run: Callable[..., Result],
    output: Path,
    strange: tuple[Path, Path],
    choice: str,
    dtype: torch.dtype,
) -> None:
    result = run(*strange, "--allow-unmatched", "--dtype", choice, "-o", output)
    assert {value.dtype for value in tensors(output).values()} == {dtype}
    assert json.loads((output / "config.json").read_text())["torch_dtype"] == choice
    assert "converted to another dtype" in result.out or choice == "float32"


def test_weights_that_are_split_anew_load_as_before(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    run(SINGLE, PLAIN, "-o", tmp_path / "one")
    result = run(SINGLE, PLAIN, "--max-shard-size", "300KB", "-o", tmp_path / "many")
    assert result.code == 0
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert files == [
        f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, len(files) + 1)
    ]
    assert len(files) > 3
    sizes = [sum(v.nbytes for v in load_file(tmp_path / "many" / name).values()) for name in files]
    assert max(sizes) <= 300_000
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(sizes)
    loaded = [
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("one", "many")
    ]
    assert loaded[0].keys() == loaded[1].keys()
    assert all(torch.equal(value, loaded[1][name]) for name, value in loaded[0].items())
    # And the other way round: shards can become one file again.
    run(tmp_path / "many", PLAIN, "-w", "-1", "--max-shard-size", "1GB", "-o", tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").glob("model*")) == [WEIGHTS]


def test_stochastic_rounding_repeats_by_its_seed(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    def merged(name: str, *arguments: str) -> dict[str, str]:
        run(SHARDED, SMALL, *arguments, "-o", tmp_path / name)
        return digests(tmp_path / name)

    stochastic = ["--rounding", "stochastic"]
    first = merged("first", *stochastic)
    assert merged("again", *stochastic, "--seed", "0") == first
    assert merged("other", *stochastic, "--seed", "1") != first
    assert merged("jobs", *stochastic, "--jobs", "1") == first
    assert merged("nearest") != first


@pytest.mark.parametrize("verb", ["merge", "merge --in-place", "swap"])
def test_a_seed_without_a_choice_is_refused(
    verb: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    adapter = {"merge": [SMALL, "-o", tmp_path / "out"], "swap": ["--in", SMALL]}.get(verb, [SMALL])
    result = run_here(capsys, *verb.split(), SHARDED, *adapter, "--seed", "7")
    assert refused(result, 2, "--seed is for --rounding stochastic")
    assert list(tmp_path.iterdir()) == []


def test_nan_and_infinity_are_written_when_asked_and_leave_json_valid(
    run: Callable[..., Result], output: Path, strange: tuple[Path, Path]
) -> None:
    base, adapter = strange
    values = load_file(adapter / "adapter_model.safetensors")
    for name in values:
        values[name][0, 0] = torch.inf
    save_file(values, adapter / "adapter_model.safetensors")
    command = [base, adapter, "--allow-unmatched", "-o", output]
    assert refused(run(*command), 1, r"q\.weight: holds a NaN or an infinity after the merge")
    assert not output.exists()
    result = run(*command, "--allow-nonfinite", "--json")

    def refuse(constant: str) -> None:
        pytest.fail(constant)

    found = json.loads(result.out, parse_constant=refuse)
    assert (found["fidelity"], found["warnings"]) == (None, [])
    assert not tensors(output)["q.weight"].isfinite().all()
    lines = run(*command, "--allow-nonfinite", "--overwrite", "-v").out.splitlines()
    assert lines[:3] == ["weight    change", "q.weight  LoRA", ""]
    assert len(lines) == 5, "and no word on fidelity"


def test_what_is_not_copied_is_named(
    run: Callable[..., Result], output: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(SINGLE, tmp_path / "base")
    others = ("original/consolidated.pth", ".cache/x", "extra/README.md")
    for name in ("README.md", "pytorch_model.bin", *others):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("x")
    result = run(base, PLAIN, "-o", output)
    assert result.err.splitlines() == [
        "Note: not copied: .cache, README.md, original/consolidated.pth, pytorch_model.bin",
    ]
    assert (output / "extra/README.md").read_text() == "x"
    assert not (output / ".cache").exists()
    assert not (output / "README.md").exists(), "which tells of another model"


# --- what it refuses -----------------------------------------------------------------------------

USAGE = {
    "no output": ([SINGLE, PLAIN], "Missing option '-o'"),
    "no adapter": ([SINGLE], "Missing argument 'ADAPTER...'"),
    "nothing": ([], "Missing argument 'BASE'"),
    "no such option": ([SINGLE, PLAIN, "--frobnicate"], "No such option"),
    "an option that moves the cursor": ([SINGLE, PLAIN, "--\x1b[2J"], r"\\x1b\[2J"),
    "an endless option": ([SINGLE, PLAIN, "--" + "x" * 9999], "No such option"),
    "weights for others": ([SINGLE, PLAIN, "-o", "x", "-w", "1", "-w", "2"], "2 weights .* for 1"),
    "no number": ([SINGLE, PLAIN, "-o", "x", "-w", "heavy"], "'heavy' is not a number"),
    "no dtype": ([SINGLE, PLAIN, "-o", "x", "--dtype", "float8"], "'float8' is not one of"),
    "no size": ([SINGLE, PLAIN, "-o", "x", "--max-shard-size", "big"], "is not a size"),
    "no byte": ([SINGLE, PLAIN, "-o", "x", "--max-shard-size", "0"], "less than a byte"),
    "no job": ([SINGLE, PLAIN, "-o", "x", "--jobs", "0"], "0 is not in the range"),
}


@pytest.mark.parametrize(("arguments", "says"), USAGE.values(), ids=USAGE)
def test_a_wrong_call_exits_2(
    run: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[Path | str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert refused(result, 2, says)
    assert result.err.startswith("Usage: ")
    assert os.listdir() == []  # noqa: PTH208


def test_no_arguments_at_all_show_the_help_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_here(capsys)
    assert (result.code, result.out) == (2, "")
    assert "Usage: loratools [OPTIONS] COMMAND [ARGS]..." in result.err
    assert "merge" in result.err
    assert "Error" not in result.err
    assert refused(run_here(capsys, "frobnicate"), 2, "No such command 'frobnicate'")


REFUSED = {
    "no base": (["gone", PLAIN], "gone: no such file or folder"),
    "no adapter": ([SINGLE, "gone"], "gone.*: no such file"),
    "an adapter for a base": ([PLAIN, PLAIN], "an adapter, where a base model is expected"),
    "a base for an adapter": ([SINGLE, SINGLE], "."),
    "another model's adapter": ([FIXTURES / "tiny-gpt2", PLAIN], "tiny-gpt2: "),
    "another model's shapes": ([SINGLE, FIXTURES / "adapters/gpt2-conv1d"], "stories260k: "),
    "a pickle": ([SINGLE, FIXTURES / "real/bloom560m-mergedlinear-bin"], "--allow-pickle"),
    "another architecture": ([SINGLE, FIXTURES / "real/sam-vitb-lora-r2"], "no such tensor in"),
    "a broken file": (["broken", PLAIN], r"broken/model\.safetensors: not a safetensors file"),
    "a hostile name": (["hostile", PLAIN], r"\\x1b\[2J\\u202e"),
    "an endless name": (["endless", PLAIN], "n{60}…n{60}: an entry must have"),
    "a single file to split": (
        [SINGLE / WEIGHTS, PLAIN, "--max-shard-size", "100KB"],
        "merged into a single file and not split",
    ),
    "no config": ([SINGLE, PLAIN, "--config", "gone.json"], r"gone\.json: no such file"),
    "a broken config": (
        [SINGLE, PLAIN, "--config", "broken.json"],
        r"broken\.json: not valid JSON",
    ),
    "its base for output": ([SINGLE, PLAIN, "-o", SINGLE], "is the input .*; name another output"),
    "inside its base": ([SINGLE, PLAIN, "-o", SINGLE / "out"], "lies inside the input"),
    "its adapter for output": ([SINGLE, PLAIN, "-o", PLAIN, "--overwrite"], "is the input"),
    "an output that exists": ([SINGLE, PLAIN, "-o", "there"], "there: exists already"),
    "an output that is precious": (
        [SINGLE, PLAIN, "-o", "there", "--overwrite"],
        "a folder without safetensors files is not replaced",
    ),
    "an output without a name": ([SINGLE, PLAIN, "-o", ".", "--overwrite"], "has no name"),
    "a device for output": (
        [SINGLE / WEIGHTS, PLAIN, "-o", "/dev/null", "--overwrite"],
        "/dev/null: not a file",
    ),
}


@pytest.mark.parametrize(("arguments", "says"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_one_line_exits_1_and_writes_nothing(
    run: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str | Path],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, header in (
        ("broken", b""),
        ("hostile", b'{"\\u001b[2J\\u202e": 1}'),
        ("endless", b'{"' + b"n" * 5000 + b'": 1}'),
    ):
        (tmp_path / name).mkdir()
        length = len(header).to_bytes(8, "little") if header else b""
        (tmp_path / name / WEIGHTS).write_bytes(length + header)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "there").mkdir()
    (tmp_path / "there/thesis.tex").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with unchanged(SINGLE, PLAIN, tmp_path):
        assert refused(run(*arguments, *([] if "-o" in arguments else ["-o", "out"])), 1, says)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_weight_is_a_number(run: Callable[..., Result], output: Path) -> None:
    result = run(SINGLE, PLAIN, "-w", "nan", "-o", output)
    assert refused(result, 2, "weight is a finite number, not nan")
    assert os.listdir(output.parent) == []  # noqa: PTH208


def test_a_config_is_an_input_that_is_never_an_output(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    config = shutil.copy(PLAIN / "adapter_config.json", tmp_path / "config.json")
    command = [SINGLE / WEIGHTS, PLAIN, "--config", config, "-o", config, "--overwrite"]
    assert refused(run(*command), 1, "is the input")


def test_a_folder_of_models_is_not_replaced_by_one_file(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    models = shutil.copytree(SINGLE, tmp_path / "models")
    command = [SINGLE / WEIGHTS, PLAIN, "-o", models, "--overwrite"]
    with unchanged(models):
        assert refused(run(*command), 1, "models: not a file, and the output is one")


NAMES = {
    "no parent": (["-o", "gone/out"], "gone: no such folder"),
    "a file for a parent": (["-o", "file/out"], "file: not a folder"),
    "a name too long": (["-o", "n" * 250], "file name too long"),
    "a name of 255 bytes": (["-o", "ü" * 127 + "x"], "file name too long"),
}


@pytest.mark.parametrize(("arguments", "says"), NAMES.values(), ids=NAMES)
def test_an_output_that_cannot_be_made_by_its_name_exits_1(
    run: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert refused(run(SINGLE, PLAIN, *arguments), 1, says)
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


def test_a_full_disk_is_noticed_before_it_is_full(
    run: Callable[..., Result], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(output.parent)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    assert refused(run(SINGLE, PLAIN, "-o", output), 4, r"\d+ bytes are needed and 10000 are free")
    assert os.listdir(output.parent) == []  # noqa: PTH208


FAILURES = {
    "no memory": (MemoryError(), 4, "Error: out of memory"),
    "no memory for torch": (
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"),
        4,
        "Error: out of memory",
    ),
    "no memory on a GPU": (torch.OutOfMemoryError("CUDA"), 4, "Error: out of memory"),
    "a file": (
        PermissionError(13, "Permission denied", "x\n"),
        4,
        r"Error: x\n: permission denied",
    ),
    "stdout": (OSError(28, "No space left on device"), 4, "Error: standard output: no space left"),
    "nobody reads": (BrokenPipeError(32, "Broken pipe"), 141, ""),
    "no threads": (
        RuntimeError("can't start new thread"),
        4,
        "Error: no further thread can be started",
    ),
    "Ctrl-C": (KeyboardInterrupt(), 130, "Interrupted."),
    "SIGTERM": (Stopped(signal.SIGTERM), 143, "Terminated."),
    "SIGHUP": (Stopped(signal.SIGHUP), 129, "Hung up."),
}


@pytest.mark.parametrize(("error", "code", "says"), FAILURES.values(), ids=FAILURES)
def test_every_failure_has_its_exit_code(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    says: str,
) -> None:
    result = failing(capsys, monkeypatch, error)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(says)
    assert "Traceback" not in result.err
    assert bool(result.err) == bool(says)


def failing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> Result:
    def merge(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("loratools.merging.merge.merge", merge)
    return run_here(capsys, "merge", SINGLE, PLAIN, "-o", "x")


def test_a_fault_of_ours_says_so_and_how_to_see_where(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = failing(capsys, monkeypatch, KeyError("x" * 1000 + "\x1b[2J"))
    assert result.code == 70
    assert re.fullmatch(
        r"Error: a fault in loratools: KeyError: .*; LORATOOLS_DEBUG=1 shows where, .*\n",
        result.err,
    )
    assert len(result.err) <= 500


def test_a_traceback_is_shown_to_those_who_ask_for_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORATOOLS_DEBUG", "1")
    result = run_here(capsys, "merge", "gone", "gone", "-o", "x")
    assert result.code == 1
    assert result.err.startswith("Traceback (most recent call last):")
    assert "FormatError: gone: no such file or folder" in result.err
    result = failing(capsys, monkeypatch, KeyError("x"))
    assert result.code == 70
    assert "KeyError: 'x'" in result.err


# --- names and pipes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [b"with space", b"new\nline", b"\xff\xfe", "ü\u202e".encode(), b"-x", b"n" * 231, b"\x1b[2J"],
)
def test_odd_names_work_and_are_printed_on_one_line(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    folder = tmp_path / os.fsdecode(name)
    base, adapter = folder / "base", folder / "adapter"
    write_safetensors(base / WEIGHTS, {"q.weight": ("F32", (8, 8))})
    write_adapter(adapter, lora("q", (8, 8)), bias="all")
    output = folder / os.fsdecode(name)
    result = run(base, adapter, "-o", output)
    assert result.code == 0, result.err
    assert sum((output / WEIGHTS).read_bytes()[-256:]) > 0
    for line in (*result.out.splitlines(), *result.err.splitlines()):
        assert line.isprintable()
    assert len(result.out.splitlines()) == 3
    found = json.loads(run(base, adapter, "-o", output, "--overwrite", "--json").out)
    assert os.fsencode(found["output"]) == os.fsencode(output)
    assert refused(run(base, adapter, "-o", output), 1, "exists already|…$")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict", "latin-1:strict"])
def test_names_are_printed_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    output = tmp_path / os.fsdecode("ü€\N{GRINNING FACE}".encode() + b"\xff")
    result = run_apart(
        *("merge", SHARDED, SMALL, "-v", "-o", output),
        env={"PYTHONIOENCODING": encoding},
        errors="replace",
    )
    assert result.code == 0, result.err
    assert "written: " in result.out
    assert output.exists()


@pytest.mark.parametrize(
    ("redirection", "code", "says"),
    [
        (">&-", 4, "Error: standard output: bad file descriptor"),
        (">/dev/full", 4, "Error: standard output: no space left on device"),
        ("| true", 141, ""),
        ("2>&-", 0, ""),
        (">&- 2>&- <&-", 4, ""),
        ("2>/dev/full", 0, ""),
    ],
)
def test_a_stdout_that_takes_nothing_is_an_error_without_a_traceback(
    tmp_path: Path, redirection: str, code: int, says: str
) -> None:
    """The model itself is complete: nothing was printed into it, though its file was opened."""
    program = (
        f'{{ sleep 0.1; "$@"; echo $? > {tmp_path}/code; }} {redirection}'
        if "|" in redirection
        else f'"$@" {redirection}; echo $? > {tmp_path}/code'
    )
    output = tmp_path / "merged"
    command = [sys.executable, "-m", "loratools", "merge", SINGLE, SMALL, "-o", output]
    found = subprocess.run(
        ["bash", "-c", program, "-", *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert int((tmp_path / "code").read_text()) == code
    assert found.stderr.strip() == says
    assert tensors(output).keys() == tensors(SINGLE).keys()


def test_a_reader_that_leaves_early_is_no_fault_of_ours(tmp_path: Path) -> None:
    program = '{ "$@"; echo $? >&2; } | head -1'
    command = [sys.executable, "-m", "loratools", "merge", "--help"]
    found = subprocess.run(
        ["bash", "-c", program, "-", *command], capture_output=True, text=True, check=False
    )
    assert found.stdout.startswith("Usage: ")
    assert found.stderr.strip() in {"0", "141"}


def test_a_terminal_sees_progress_and_is_left_clean(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-m", "loratools", "merge", SHARDED, SMALL, "-o", tmp_path / "merged"],
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # the other side is closed
        os.close(ours)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert b"B/s]" in shown
    assert re.search(rb"\r +\rWarning: ", shown), "the bar is gone"
    assert out.startswith(b"20 of 20 adapter tensors applied")


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["merge", "--help"], ["--version"]])
def test_help_needs_neither_torch_nor_numpy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom loratools.cli import run\n"
        "code = run()\n"
        "heavy = {'torch', 'numpy', 'safetensors', 'tqdm', 'rich', 'jaxtyping'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
        "sys.exit(code)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0
    assert found.stderr == "[]\n"
    assert found.stdout


def test_a_refusal_by_headers_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(b"")
    found = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "loratools",
            "merge",
            tmp_path,
            PLAIN,
            "-o",
            "x",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert " torch\n" not in found.stderr


def test_the_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_here(capsys, "merge", "--help")
    assert result.code == 0
    for option in ("--weight", "--dtype", "--max-shard-size", "--only", "--skip", "--rounding"):
        assert option in result.out
