"""The commands whose outputs are hashed: every verb over every fixture, and errors."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

STORIES: Final = "fixtures/stories260k"
SHARDED: Final = "fixtures/stories260k-bf16-sharded"
BASES: Final = (STORIES, SHARDED, "fixtures/tiny-gpt2", "made/model", "made/model-f16", "made/unet")
#: The bases to use for the adapters that name one of these in their config.
NAMED: Final = {
    "stories260k": (STORIES, SHARDED),
    "tiny-gpt2": ("fixtures/tiny-gpt2",),
    "model": ("made/model",),
}

INSPECT: Final = (
    "", "--json", "--check", "--modules", "--spectrum", "--spectrum --modules --check --json",
    "--allow-pickle --out-proj once --json",
)  # fmt: skip
MERGE: Final = (
    "-v", "--json -w -0.5", "-w 0", "--dtype float32", "--dtype bfloat16 --json",
    "--dtype float16 --max-shard-size 200KB", "--rounding stochastic --dtype bfloat16 --seed 8",
    "--skip *q*", "--only *q*", "--allow-unmatched --out-proj twice", "--dry-run --json",
)  # fmt: skip
SWAP: Final = (
    "-v",
    "--json -w -0.5",
    "--rounding stochastic --seed 8 --skip *q*",
    "--dry-run --json",
)
RESCALE: Final = (
    "--strength 0.5", "--strength -3 --keep-replaced --json", "--where *q*=2 --where *down*=0",
    "--alpha 5", "--fold", "--rule rslora", "--rule alpha-over-rank --alpha 1", "--balance",
    "--fold --balance --strength 0.3 --allow-pickle", "--strength 1e-320",
)  # fmt: skip
#: The formats whose adapters are folders, and those whose adapters are files.
FOLDERS: Final = ("diffusers", "mlx", "peft")
FILES: Final = ("comfyui", "kohya")
CONVERT: Final = ("--json", "--dtype bfloat16 --allow-pickle", "--drop *q*", "--dry-run")
RESIZE: Final = (
    "--rank 1 --allow-pickle", "--rank 9 --json", "--energy 0.9 --uniform", "--error 0.4 --modules",
    "--size 20KB", "--parameters 600", "--energy 0.99 --max-rank 3 --min-rank 2 --multiple-of 2",
)  # fmt: skip
COMBINE: Final = (
    "-w 0.5 -w -0.25", "-w 1 -w -1 --energy 0.9", "--rank 2 --json", "--size 20KB --modules",
    "--where *q*=3 --replaced average",
)  # fmt: skip
#: The options of each method in addition to `--rank 2`; a method without an entry has its defaults.
METHODS: Final = {
    "breadcrumbs": "--density 0.7 --gamma 0.1",
    "dare_linear": "--density 0.5 --seed 3",
    "dare_ties": "--density 0.5 --seed 4 --majority-sign-method frequency",
    "della": "--density 0.5 --epsilon 0.1 --seed 5 --no-rescale",
    "knots": "--density 0.5",
    "magnitude_prune": "--density 0.5",
    "sce": "--select-topk 0.5",
    "slerp": "--t 0.3",
    "ties": "--density 0.5 --lambda 0.7 --normalize",
}
EXTRACT: Final = (
    "--rank 2 --check", "--energy 0.9 --dtype bfloat16 --json", "--error 0.3 --uniform",
    "--size 20KB --modules",
    "--rank 1 --full *norm* --skip *q* --residual drop --base-name ann/base",
)  # fmt: skip
PUSH: Final = (
    "--create --base ann/base --license mit", "--create --json",
    "--create --base ann/base --all --tag v1 --json", "--create --base ann/base --no-card",
)  # fmt: skip
PULL: Final = ("--json", "-o out --lock lock.json", "--include-base")
#: Commands for an adapter that is refused by some verbs or by all; `{0}` is its path.
BROKEN: Final = (
    "inspect {0}", "inspect {0} --check --json", "inspect {0} --base made/model --spectrum",
    "merge made/model {0} -o out",
    "merge made/model {0} -o out --allow-unmatched --allow-nonfinite",
    "rescale {0} -o out --strength 2", "resize {0} -o out --rank 1",
    "combine {0} {0} -o out", "push {0} ann/new --create --base ann/base",
)  # fmt: skip
MISUSE: Final = (
    "", "--help", "--version", "nothing", "merge", f"merge {STORIES}",
    f"merge {STORIES} fixtures/adapters/plain", "merge nowhere fixtures/adapters/plain -o out",
    f"merge {STORIES} nowhere -o out", f"merge {STORIES} fixtures/adapters/plain -o {STORIES}",
    f"merge {STORIES} fixtures/adapters/plain -o out -w 1 -w 2",
    f"merge {STORIES} fixtures/adapters/plain -o out --only *nothing*",
    f"merge {STORIES} fixtures/adapters/plain -o out --dtype int8",
    f"merge {STORIES} fixtures/adapters/plain -o out -w nan",
    "inspect", "inspect nowhere", f"inspect {STORIES}", "rescale fixtures/adapters/plain -o out",
    "rescale fixtures/adapters/plain -o out --strength 1 --rank 2",
    "resize fixtures/adapters/plain -o out", "resize fixtures/adapters/plain -o out --rank 0",
    "resize fixtures/adapters/plain -o out --energy 2", "combine fixtures/adapters/plain",
    "combine fixtures/adapters/plain fixtures/adapters/plain -o out --method none",
    "combine fixtures/adapters/plain fixtures/adapters/plain -o out --method ties",
    "combine fixtures/adapters/plain fixtures/adapters/plain -o out -w 1",
    f"svd-extract {STORIES} {STORIES} -o out --rank 1",
    f"svd-extract {STORIES} fixtures/tiny-gpt2 -o out --rank 1",
    f"svd-extract {STORIES} {SHARDED} -o out --rank 1", f"svd-extract {STORIES} {SHARDED} -o out",
    "push fixtures/adapters/plain", "push nowhere ann/new --create", "pull", "pull ann/nowhere",
    "pull ../x", "inspect hf://ann/nowhere", "merge hf://ann/nowhere hf://ann/none -o out",
)  # fmt: skip


@final
@dataclass(frozen=True)
class Case:
    """A command to run.

    `hosted` is a path whose files the repository `ann/hosted` on the Hub has; None for no such
    repository. `own` is a model of which there is a copy at `out`; None for no such copy.
    """

    command: str
    hosted: str | None = None
    own: str | None = None


def all_cases(
    tuned: Sequence[tuple[str, str]], verbs: Sequence[str], methods: Sequence[str]
) -> Iterator[Case]:
    """All cases; `tuned` has pairs of a merged model and its base, for svd-extract."""
    adapters = paths_in("fixtures/adapters", "fixtures/kohya", "fixtures/real", "made/adapters")
    yield from map(Case, MISUSE)
    yield Case("formats")
    yield from (Case(f"{verb} --help") for verb in verbs)
    for broken in paths_in("made/broken"):
        yield from (Case(way.format(broken)) for way in BROKEN)
    for adapter in adapters:
        yield from map(Case, _of_one(adapter))
        yield from (
            Case(f"swap out --in {adapter} {w}", own=b) for b in bases_of(adapter) for w in SWAP
        )
        yield from _on_the_hub(adapter)
    for pair in _pairs(adapters):
        yield from map(Case, _of_pair(*pair, methods))
    for model, base in tuned:
        yield from (Case(f"svd-extract {model} {base} -o out {way}") for way in EXTRACT)
        yield Case(f"push {model} ann/new {PUSH[0]}")


def _of_one(adapter: str) -> Iterator[str]:
    out = _output_of(adapter)
    yield from (f"inspect {adapter} {way}" for way in INSPECT)
    for base in BASES:
        yield f"merge {base} {adapter} -o out"
    for base in bases_of(adapter):
        yield f"inspect {adapter} --base {base} --json"
        yield f"inspect {adapter} --base {base} --spectrum --check"
        yield f"merge {base}/model.safetensors {adapter} -o out.safetensors"
        yield from (f"merge {base} {adapter} -o out {way}" for way in MERGE)
        yield f"rescale {adapter} -o {out} --strength 0.5 --base {base} --rank 3"
        yield f"rescale {adapter} -o {out} --fold --base {base} --energy 0.9"
        yield f"combine {adapter} {adapter} -o {out} --base {base} --rank 3"
    yield from (f"rescale {adapter} -o {out} {way}" for way in RESCALE)
    yield from (f"resize {adapter} -o {out} {way}" for way in RESIZE)
    yield from (f"convert {adapter} -o out --to {to} {way}" for to in FOLDERS for way in CONVERT)
    yield from (f"convert {adapter} -o out.safetensors --to {to} --json" for to in FILES)


def _pairs(adapters: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs of each adapter with itself, and with the previous adapter for the same bases."""
    last: dict[tuple[str, ...], str] = {}
    for adapter in adapters:
        yield adapter, adapter
        bases = bases_of(adapter)
        if bases in last:
            yield last[bases], adapter
        last[bases] = adapter


def _of_pair(one: str, other: str, methods: Sequence[str]) -> Iterator[str]:
    out = _output_of(one)
    yield f"combine {one} {other} -o {out}"
    if one != other:
        yield from (f"combine {one} {other} -o {out} {way}" for way in COMBINE)
    for method in methods:
        options = f"--method {method} --rank 2 {METHODS.get(method, '')}".strip()
        yield f"combine {one} {other} -o {out} {options}"
    for base in bases_of(one):
        yield f"merge {base} {one} {other} -o out -w 1 -w -0.5"


def _on_the_hub(adapter: str) -> Iterator[Case]:
    yield from (Case(f"push {adapter} ann/new {way}") for way in PUSH)
    yield Case(f"push {adapter} ann/hosted --base ann/base --pr", adapter)
    yield from (Case(f"pull ann/hosted {way}", adapter) for way in PULL)
    yield Case("inspect hf://ann/hosted --json", adapter)
    for base in bases_of(adapter):
        yield Case(f"merge {base} hf://ann/hosted -o out --json", adapter)


def _output_of(adapter: str) -> str:
    """The name of an output in the adapter's format: a file for kohya, a folder for PEFT."""
    return "out.safetensors" if "kohya" in adapter else "out"


def bases_of(adapter: str) -> tuple[str, ...]:
    """The paths of the bases that an adapter was made for; none if that is not known."""
    config = Path(adapter, "adapter_config.json")
    if config.is_file():
        with contextlib.suppress(ValueError):
            return NAMED.get(json.loads(config.read_text()).get("base_model_name_or_path"), ())
    if "kohya" in adapter:
        return ("made/unet",) if adapter.startswith("fixtures") else ("made/model",)
    return ()


def paths_in(*folders: str) -> list[str]:
    """The paths of all files and folders in these folders, sorted by name in each."""
    return [str(path) for folder in folders for path in sorted(Path(folder).iterdir())]
