"""What verbs that make adapters of adapters have in common: where they write, what they refuse."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.results import refused
from tests.e2e.commands import FIXTURES, SINGLE, SMALL, Result, digests, run_here, unchanged
from tests.verbs import RESHAPING

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
OTHER = FIXTURES / "adapters/combine-r8"
KOHYA = FIXTURES / "kohya/sd15-locon"
FILE = "lora.safetensors"
#: What each verb that makes adapters from adapters needs beside them and an output.
VERBS = {
    "rescale": ["--strength", "0.5"],
    "resize": ["--rank", "2"],
    "combine": ["-w", "0.5"],
    "convert": ["--to", "peft"],
}
#: What each says of every adapter.
NOTES = {"convert": ["the adapter is in the peft format already, and is written anew"]}
verbs = pytest.mark.parametrize("verb", RESHAPING)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`loratools VERB …` with what it needs; whatever happens, no traceback and no surprise."""

    def call(verb: str, *arguments: Path | str) -> Result:
        # A conversion, too, writes the format that it reads.
        kohya = ["--to", "kohya"] * (verb == "convert" and not {KOHYA, FILE}.isdisjoint(arguments))
        result = run_here(capsys, verb, *arguments, *VERBS[verb], *kohya)
        assert "Traceback" not in result.err
        assert result.code != 70, result.err
        return result

    return call


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "made"


def said(verb: str) -> str:
    """What a verb prints on stderr for every adapter."""
    return "".join(f"Note: {note}\n" for note in NOTES.get(verb, []))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- where it writes -----------------------------------------------------------------------------


@verbs
def test_a_peft_adapter_is_a_folder(run: Callable[..., Result], verb: str, output: Path) -> None:
    with unchanged(SMALL):
        result = run(verb, SMALL, "-o", output)
    assert (result.code, result.err) == (0, said(verb))
    size = (output / WEIGHTS).stat().st_size
    assert result.out.splitlines()[-1] == f"written: {output} ({size / 1000:.4g} kB)"
    assert names(output) == [CONFIG, WEIGHTS]
    assert names(output.parent) == ["made"]


@verbs
def test_a_kohya_adapter_is_a_file(run: Callable[..., Result], verb: str, tmp_path: Path) -> None:
    with unchanged(KOHYA):
        result = run(verb, KOHYA, "-o", tmp_path / "made.safetensors")
    assert result.code == 0
    # A truncation computes new factors, and they are stored in float16.
    assert ("Note: rounding the factors to float16" in result.err) == (verb == "resize")
    assert names(tmp_path) == ["made.safetensors"]


@verbs
def test_a_tokenizer_comes_along(run: Callable[..., Result], verb: str, output: Path) -> None:
    adapter = FIXTURES / "adapters/embedding-lora-resized"
    assert run(verb, adapter, "-o", output).code == 0
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (output / name).read_bytes() == (adapter / name).read_bytes()
    assert not (output / "SOURCE.json").exists(), "which says of another adapter where it is from"


@verbs
def test_a_dry_run_writes_nothing_and_says_the_same(
    run: Callable[..., Result], verb: str, output: Path
) -> None:
    *planned, last = run(verb, SMALL, "--dry-run").out.splitlines()
    assert last == "dry run: nothing written"
    assert run(verb, SMALL, "--dry-run", "-o", output).out.splitlines() == [*planned, last]
    assert names(output.parent) == []
    assert run(verb, SMALL, "-o", output).out.splitlines()[:-1] == planned


@verbs
@pytest.mark.parametrize("dry", [False, True])
def test_json_is_all_that_is_printed(
    run: Callable[..., Result], verb: str, output: Path, dry: bool
) -> None:
    result = run(verb, SMALL, "-o", output, "--json", *["--dry-run"] * dry)
    assert (result.code, result.err) == (0, "")  # notes are in the object
    found = json.loads(result.out, parse_constant=pytest.fail)
    assert found["output"] == (None if dry else str(output))
    assert found["bytes"] == (None if dry else (output / WEIGHTS).stat().st_size)
    assert found["notes"] == NOTES.get(verb, [])
    assert output.exists() != dry


@verbs
def test_json_has_the_notes_that_are_else_on_stderr(
    run: Callable[..., Result], verb: str, output: Path
) -> None:
    adapter = FIXTURES / "adapters/gpt2-bias-all"
    command = [verb, adapter, "--dry-run", *["--keep-replaced"] * (verb == "rescale")]
    noted = [line.removeprefix("Note: ") for line in run(*command).err.splitlines()]
    assert json.loads(run(*command, "--json").out)["notes"] == noted
    # Strengths and weights do not reach whole tensors: said where one of them is not 1.
    assert (noted != NOTES.get(verb, [])) == (verb in {"rescale", "combine"})


@verbs
def test_an_output_that_exists_is_replaced_only_when_asked(
    run: Callable[..., Result], verb: str, output: Path
) -> None:
    run("rescale", OTHER, "-o", output)
    before = digests(output)
    assert refused(run(verb, SMALL, "-o", output), 1, "made: exists already")
    assert digests(output) == before
    assert run(verb, SMALL, "-o", output, "--overwrite").code == 0
    after = digests(output)
    assert after != before
    run(verb, SMALL, "-o", output.parent / "again")
    assert digests(output.parent / "again") == after
    assert names(output.parent) == ["again", "made"]


@verbs
def test_the_config_of_the_result_is_sorted_and_ends_its_last_line(
    run: Callable[..., Result], verb: str, output: Path
) -> None:
    run(verb, SMALL, "-o", output)
    text = (output / CONFIG).read_text()
    config = json.loads(text)
    assert text == json.dumps(config, indent=2, sort_keys=True) + "\n"
    assert config["base_model_name_or_path"] == "stories260k"


@verbs
def test_a_config_that_is_elsewhere_is_named(
    run: Callable[..., Result], verb: str, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(SMALL / WEIGHTS, bare)
    command = [verb, bare, "-o", tmp_path / "made"]
    guessed = run(*command, "--dry-run")
    assert guessed.code == 0
    assert re.search(r"Note: .*no adapter_config\.json beside it.*--config", guessed.err)
    assert run(*command, "--config", SMALL / CONFIG).code == 0
    run(verb, SMALL, "-o", tmp_path / "expected")
    assert digests(tmp_path / "made") == digests(tmp_path / "expected")


@verbs
def test_a_pickle_is_read_only_when_that_is_allowed(
    run: Callable[..., Result], verb: str, output: Path
) -> None:
    adapter = FIXTURES / "real/bloom560m-mergedlinear-bin"
    assert refused(run(verb, adapter, "-o", output), 1, "a pickle.*--allow-pickle")
    assert run(verb, adapter, "-o", output, "--allow-pickle").code == 0
    assert names(output) == [CONFIG, WEIGHTS]


# --- what it refuses -----------------------------------------------------------------------------

USAGE = {
    "no output": ([SMALL], "Missing option '-o'"),
    "no adapter": (["-o", "x"], "Missing argument 'ADAPTER"),
    "no such option": ([SMALL, "--frobnicate"], "No such option"),
    "an option that moves the cursor": ([SMALL, "--\x1b[2J"], r"\\x1b\[2J"),
}


@verbs
@pytest.mark.parametrize(("arguments", "says"), USAGE.values(), ids=USAGE)
def test_a_wrong_call_exits_2(
    run: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    verb: str,
    arguments: list[Path | str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(verb, *arguments)
    assert refused(result, 2, says)
    assert result.err.startswith("Usage: ")
    assert f"loratools {verb} [OPTIONS]" in result.err
    assert names(tmp_path) == []


REFUSED = {
    "no such adapter": (["gone"], "gone.*: no such file"),
    "a base": ([SINGLE], "stories260k: not an adapter"),
    "a format that is only read": (
        [FIXTURES / "real/sam-vitb-lora-r2"],
        "the format sam is read and not written",
    ),
    "a broken file": (["broken"], r"broken/adapter_model\.safetensors: not a safetensors file"),
    "a hostile name": (["hostile"], r"\\x1b\[2J\\u202e"),
    "a broken config": ([SMALL, "--config", "broken.json"], r"broken\.json: not valid JSON"),
    "its input for output": ([SMALL, "-o", SMALL, "--overwrite"], "is the input"),
    "inside its input": ([SMALL, "-o", SMALL / "out"], "lies inside the input"),
    "its config for output": (
        [KOHYA, "--config", "c.safetensors", "-o", "c.safetensors", "--overwrite"],
        "is the input",
    ),
    "its file for output": (
        [FILE, "-o", FILE, "--overwrite"],
        "is the input",
    ),
    "an output that exists": ([SMALL, "-o", "there"], "there: exists already"),
    "an output that is precious": (
        [SMALL, "-o", "there", "--overwrite"],
        "a folder without safetensors files is not replaced",
    ),
    "a folder named like a file": (
        [SMALL, "-o", "x.safetensors"],
        "the output is a folder, and this is the name of a file; name it x$",
    ),
    "a file named like a folder": (
        [KOHYA, "-o", "x"],
        r"the output is a safetensors file; name it x\.safetensors$",
    ),
    "a folder for a file": (
        [KOHYA, "-o", "folder.safetensors", "--overwrite"],
        "not a file, and the output is one",
    ),
    "an output without a name": ([SMALL, "-o", ".", "--overwrite"], "has no name"),
}


@verbs
@pytest.mark.parametrize(("arguments", "says"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_one_line_exits_1_and_writes_nothing(
    run: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    verb: str,
    arguments: list[str | Path],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, header in (("broken", b""), ("hostile", b'{"\\u001b[2J\\u202e": 1}')):
        (tmp_path / name).mkdir()
        length = len(header).to_bytes(8, "little") if header else b""
        (tmp_path / name / WEIGHTS).write_bytes(length + header)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "c.safetensors").write_text("{}")
    (tmp_path / "there").mkdir()
    (tmp_path / "there/thesis.tex").write_text("mine")
    (tmp_path / "folder.safetensors").mkdir()
    shutil.copy(KOHYA / "sd15-locon.safetensors", tmp_path / FILE)
    before = sorted(tmp_path.rglob("*"))
    if verb == "convert" and "read and not written" in says:
        pytest.skip("it is written in another format")
    with unchanged(SMALL, KOHYA, tmp_path):
        assert refused(run(verb, *arguments, *([] if "-o" in arguments else ["-o", "x"])), 1, says)
    assert sorted(tmp_path.rglob("*")) == before


@verbs
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_number_that_is_none_is_an_error_that_names_its_tensor(
    run: Callable[..., Result], verb: str, tmp_path: Path, value: float
) -> None:
    adapter = shutil.copytree(SMALL, tmp_path / "adapter")
    tensors = load_file(adapter / WEIGHTS)
    name = list(tensors)[3]
    tensors[name][0, 0] = value
    save_file(tensors, adapter / WEIGHTS, {"format": "pt"})
    with unchanged(adapter):
        result = run(verb, adapter, "-o", tmp_path / "made")
    assert refused(result, 1, rf"^Error: {name}: holds a NaN or an infinity")
    assert names(tmp_path) == ["adapter"]


NAMES = {
    "no parent": ("gone/out", "gone: no such folder"),
    "a file for a parent": ("file/out", "file: not a folder"),
    "a name too long": ("n" * 250, "file name too long"),
}


@verbs
@pytest.mark.parametrize(("output", "says"), NAMES.values(), ids=NAMES)
def test_an_output_that_cannot_be_made_by_its_name_exits_1(
    run: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    verb: str,
    output: str,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert refused(run(verb, SMALL, "-o", output), 1, says)
    assert names(tmp_path) == ["file"]


@verbs
def test_a_full_disk_is_noticed_before_it_is_full(
    run: Callable[..., Result], verb: str, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(output.parent)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    assert refused(run(verb, SMALL, "-o", output), 4, r"\d+ bytes are needed and 10000 are free")
    assert os.listdir(output.parent) == []  # noqa: PTH208


@verbs
def test_a_fault_of_ours_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(f"loratools.reshaping.{verb}.{verb}", fail)
    result = run_here(capsys, verb, SMALL, "-o", "x", *VERBS[verb])
    assert (result.code, result.out) == (70, "")
    assert result.err.startswith("Error: a fault in loratools: KeyError: 'x'")
