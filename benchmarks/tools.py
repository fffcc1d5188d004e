"""The tools whose merges are compared, each by the command line that a user would run."""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

ROOT: Final = Path(__file__).resolve().parents[1]
PROGRAMS: Final = Path(__file__).resolve().parent / "programs"
CHECKOUT: Final = {"PYTHONPATH": str(ROOT)}
# With these settings glibc keeps freed memory, so PEFT has fewer page faults. They are no default.
TUNED_MALLOC: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(1 << 30),
}
LORATOOLS: Final = "loratools merge"
LORATOOLS_WORK: Final = "loratools, merge alone"
COPY: Final = "cp -r and fsync"
LIMIT: Final = "direct write, the limit"
PEFT: Final = "PEFT"
MERGEKIT: Final = "mergekit"
DIFFUSERS: Final = "diffusers"
IDLE: Final = "import torch, idle"


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def weight_bytes(folder: Path) -> int:
    """The size in bytes of the weight files under a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


@final
@dataclass(frozen=True)
class Case:
    """One base and one adapter to be merged into it."""

    title: str
    base: Path
    adapter: Path

    @property
    def base_bytes(self) -> int:
        """The size in bytes of the base's weights."""
        return weight_bytes(self.base)


@final
@dataclass(frozen=True)
class Tool:
    """A way to merge: its command for (case, output), and what it adds to the environment."""

    key: str
    """The word that chooses it on the command line."""
    name: str
    command: Callable[[Case, Path], Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    timed_inside: bool = False
    """Whether its time is the seconds it prints rather than the life of the process."""
    writes: bool = True


def loratools(case: Case, out: Path) -> Sequence[str]:
    merge = ["merge", str(case.base), str(case.adapter), "-o", str(out)]
    return [sys.executable, "-m", "loratools", *merge]


def program(name: str) -> Callable[[Case, Path], Sequence[str]]:
    """The command line that runs a script of `programs/` with BASE ADAPTER OUT."""

    def command(case: Case, out: Path) -> Sequence[str]:
        return [sys.executable, str(PROGRAMS / name), str(case.base), str(case.adapter), str(out)]

    return command


def copy(case: Case, out: Path) -> Sequence[str]:
    # Only its own files are synced: a bare `sync` would also wait for other programs' writes.
    return ["sh", "-c", 'cp -r "$1" "$2" && sync "$2"/*', "copy", str(case.base), str(out)]


def mergekit(executable: str) -> Callable[[Case, Path], Sequence[str]]:
    """A passthrough merge: mergekit has PEFT write the merged model to a cache and copies it."""

    def command(case: Case, out: Path) -> Sequence[str]:
        out.mkdir()
        config = {
            "models": [{"model": f"{case.base}+{case.adapter}"}],
            "merge_method": "passthrough",
            "dtype": "bfloat16",
        }
        file = out / "mergekit.yml"
        file.write_text(json.dumps(config))  # JSON is YAML
        return [executable, str(file), str(out / "model"), "--lora-merge-cache", str(out / "cache")]

    return command


def idle(_case: Case, _out: Path) -> Sequence[str]:
    return [sys.executable, "-c", "import torch"]


def available(*, mergekit_executable: str, tuned_malloc: bool) -> Iterator[Tool]:
    """The tools that can be run here; stderr gets a note for each that cannot."""
    yield Tool("idle", IDLE, idle, writes=False)
    if (ROOT / "loratools" / "__main__.py").is_file():
        yield Tool("loratools", LORATOOLS, loratools, CHECKOUT)
        alone = program("loratools_merge.py")
        yield Tool("alone", LORATOOLS_WORK, alone, CHECKOUT, timed_inside=True)
    else:
        note("loratools has no command: skipped")
    yield Tool("cp", COPY, copy)
    yield Tool("direct", LIMIT, program("direct_write.py"), timed_inside=True)
    if importlib.util.find_spec("peft") is not None:
        yield Tool("peft", PEFT, program("peft_merge.py"))
        if tuned_malloc:
            tuned = program("peft_merge.py")
            yield Tool("peft-tuned", "PEFT, malloc tuned", tuned, TUNED_MALLOC)
    else:
        note("PEFT is not installed: skipped")
    if executable := shutil.which(mergekit_executable):
        yield Tool("mergekit", MERGEKIT, mergekit(executable))
    else:
        note(f"{mergekit_executable!r} is no executable: mergekit skipped")


def environment(added: Mapping[str, str]) -> dict[str, str]:
    """The environment with `added`, offline, and with bytecode cached as for installed packages."""
    inherited = {
        key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"
    }
    return {**inherited, "HF_HUB_OFFLINE": "1", **added}
