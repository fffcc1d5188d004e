"""What a command imports: the Hub's client for names on the Hub, and torch where it computes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.commands import FIXTURES, PLAIN, SINGLE
from tests.merged import pair, write_adapter, write_base

CLIENT = ("huggingface_hub", "httpx2")


def imported(commands: list[list[object]], cwd: Path) -> list[tuple[int, list[str]]]:
    """The exit codes of commands, run in turn in a process, and what it has imported by then."""
    program = (
        "import json, sys\nfrom loratools.cli import run\n"
        "for sys.argv[1:] in json.loads(sys.argv[1]):\n"
        f"    said = [run(), sorted({set(CLIENT)!r} & set(sys.modules))]\n"
        "    print('\\n' + json.dumps(said), file=sys.stderr)\n"
    )
    words = [[str(word) for word in command] for command in commands]
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    said = (json.loads(line) for line in done.stderr.splitlines() if line.startswith("["))
    return [(code, modules) for code, modules in said]


def test_files_here_need_no_client_of_the_hub(tmp_path: Path) -> None:
    commands: list[list[object]] = [
        ["--help"],
        ["pull", "--help"],
        ["push", "--help"],
        ["inspect", PLAIN],
        ["inspect", PLAIN, "--base", SINGLE, "--check"],
        ["merge", SINGLE, PLAIN, "-o", "merged"],
        ["merge", SINGLE, PLAIN, "-o", "again", "--offline"],
        ["resize", PLAIN, "--rank", "2", "-o", "small"],
    ]
    assert imported(commands, tmp_path) == [(0, [])] * len(commands)


def test_a_name_on_the_hub_needs_it(tmp_path: Path) -> None:
    found = imported([["inspect", "hf://ann/plain", "--offline"]], tmp_path)
    assert found == [(4, ["httpx2", "huggingface_hub"])]


# --- torch ----------------------------------------------------------------------------------------


def codes_without_torch(commands: list[str], cwd: Path) -> dict[str, int]:
    """The exit codes of commands, run in turn in a process in which no import of torch succeeds."""
    program = (
        "import json, sys\nsys.modules['torch'] = None\nfrom loratools.cli import run\n"
        "codes = []\n"
        "for sys.argv[1:] in json.loads(sys.argv[1]):\n"
        "    codes.append(run())\n"
        "print(json.dumps(codes), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps([command.split() for command in commands])],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(commands, json.loads(done.stderr.splitlines()[-1]), strict=True))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A base, and adapters that replace tensors of it, with and without a LoRA beside them."""
    weights = {f"{name}.weight": torch.randn(6, 4).bfloat16() for name in ("q", "k", "v")}
    for name in ("base", "copy"):
        write_base(tmp_path / name, weights, {"architectures": ["Model"]})
    whole = {"q.weight": torch.ones(6, 4).bfloat16()}
    write_adapter(tmp_path / "whole", whole, modules_to_save=["q"])
    same = {"q.weight": weights["q.weight"]}
    write_adapter(tmp_path / "same", same, modules_to_save=["q"])
    both = {**whole, **pair("k", 6, 4)}
    write_adapter(tmp_path / "both", both, modules_to_save=["q"], target_modules=["k"])
    return tmp_path


def test_merge_that_only_copies_never_imports_torch(models: Path) -> None:
    codes = codes_without_torch(
        [
            "merge base whole -o folder",
            "merge base/model.safetensors whole -o file.safetensors",
            "merge base whole -o split --max-shard-size 50B",
            "merge base whole -o typed --dtype bfloat16 --rounding stochastic",
            "merge base same -o same_as_before",
            "merge base both -o skipped --skip k.weight",
            "merge base whole -o overlay --only-changed",
            "merge base+overlay same -o materialised --json --jobs 2",
            "swap copy --in whole",
            "swap copy --out",
        ],
        models,
    )
    assert set(codes.values()) == {0}, codes
    written = load_file(models / "folder/model.safetensors")
    assert torch.equal(written["q.weight"], torch.ones(6, 4).bfloat16())
    # A merge that computes does import it, and says that it cannot.
    assert codes_without_torch(["merge base both -o edited"], models) == {
        "merge base both -o edited": 4
    }


def test_dry_run_of_stored_tensors_imports_no_torch(models: Path) -> None:
    """Factors are found to be zero by their bytes, and whole tensors to be the base's."""
    adapters = [path for path in FIXTURES.glob("adapters/*") if "gpt2" not in path.name]
    commands = [f"merge {SINGLE} {adapter} --dry-run" for adapter in sorted(adapters)]
    codes = codes_without_torch(["merge base both --dry-run", *commands], models)
    assert set(codes.values()) == {0}, codes


def test_refusal_by_headers_and_configs_imports_no_torch(models: Path) -> None:
    codes = codes_without_torch(
        [
            "merge base both -o out --skip *",
            "merge base both -o out --only no.such.weight",
            "merge base both -o base",
            "merge base absent -o out",
            f"merge base {PLAIN} -o out",
            "merge base both -o out -w 0.5",
            "merge base whole same -o out",
        ],
        models,
    )
    assert codes == dict.fromkeys(codes, 1), codes


def test_adapter_that_only_gets_another_alpha_is_written_without_torch(models: Path) -> None:
    codes = codes_without_torch([f"rescale {PLAIN} --strength 2 -o rescaled"], models)
    assert set(codes.values()) == {0}
    assert (
        json.loads((models / "rescaled/adapter_config.json").read_text())["lora_alpha"]
        != (json.loads((PLAIN / "adapter_config.json").read_text())["lora_alpha"])
    )


def test_collector_of_garbage_rests_while_torch_is_imported(models: Path) -> None:
    """In every verb, whatever imports torch first; it would take a twelfth more of the time."""
    commands = [
        "merge base both -o out",
        f"combine {PLAIN} {PLAIN} -o out",
        f"resize {PLAIN} --rank 2 -o out",
        f"rescale {PLAIN} --fold -o out",
        f"inspect {PLAIN} --spectrum",
        "svd-extract base base -o out --rank 1",
    ]
    program = (
        "import gc, json, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch':\n"
        "            seen.add(gc.isenabled())\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from loratools.cli import run\n"
        "for sys.argv[1:] in json.loads(sys.argv[1]):\n"
        "    seen = set()\n"
        "    run()\n"
        "    print(sys.argv[1], seen)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps([command.split() for command in commands])],
        cwd=models,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [f"{command.split()[0]} {{False}}" for command in commands]
