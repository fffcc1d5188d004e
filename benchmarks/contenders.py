"""The command lines that `algebra.py` compares: loratools' verbs, and tools that do the same."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

import quality
from tools import CHECKOUT, IDLE, PROGRAMS

LAYERS: Final = 18
FEW: Final = 2  # layers, for the tools that take minutes for all of them
MODULES: Final = ("self_attn.q_proj", "self_attn.k_proj")
METHODS: Final = {"linear": "svd", "ties": "ties_svd", "dare_ties": "dare_ties_svd"}


@final
@dataclass(frozen=True)
class Contender:
    """One tool in one comparison.

    If it runs on a part of the task, its time is multiplied by `times` for the whole task. The
    contender named `start` gives the time to start, which is not multiplied. `quality` says how
    good an output is.
    """

    name: str
    on: str
    command: Sequence[str]
    inputs: Sequence[Path]
    output: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    timed_inside: bool = False
    once: bool = False
    times: float = 1.0
    start: str | None = None
    quality: Callable[[Path], str] | None = None


@final
@dataclass(frozen=True)
class Comparison:
    """The contenders of one table; ratios are to the one named `reference`."""

    title: str
    reference: str
    contenders: Sequence[Contender]
    measure_of_quality: str = ""


def comparisons(
    data: Path, out: Path, mergekit: str | None, *, whole: bool
) -> dict[str, Comparison]:
    """All comparisons, by name; mergekit has a row only if its executable is given.

    With `whole` all tools do the whole task, some in five minutes; else these do a part of it.
    """
    return {
        "combine": combining(data, out, whole=whole),
        "ties": signed(data, out, "ties"),
        "dare_ties": signed(data, out, "dare_ties"),
        "resize": resizing(data, out, whole=whole),
        "spectrum": measuring(data),
        "extract-lora": extracting(data, out, "lora", mergekit, whole=whole),
        "extract-slow": extracting(data, out, "slow", mergekit, whole=whole),
    }


def _python(*arguments: str | Path) -> list[str]:
    return [sys.executable, *map(str, arguments)]


def _loratools(*arguments: str | Path) -> list[str]:
    return _python("-m", "loratools", *arguments)


# --- combine ----------------------------------------------------------------------------------


def combining(data: Path, out: Path, *, whole: bool) -> Comparison:
    every = [data / f"combine-{n}" for n in (1, 2, 3)]
    some = every if whole else [data / f"combine-2-layers-{n}" for n in (1, 2, 3)]
    layers = LAYERS if whole else FEW
    on = f"{LAYERS} layers"

    def error_of(adapters: Sequence[Path]) -> Callable[[Path], str]:
        return lambda found: quality.of_sum(found, adapters, MODULES, rank=16)

    command = ["combine", *every, "-o", out / "ours", "--rank", "16"]
    return Comparison(
        "combine: three adapters of rank 16 to rank 16, 1.2 B, all linears",
        "loratools, combining alone",
        [
            Contender(
                "loratools combine",
                on,
                _loratools(*command),
                every,
                out / "ours",
                CHECKOUT,
                quality=error_of(every),
            ),
            _ours_alone("linear", "-", on, every, out),
            _peft("linear", "-", data, out, some, layers, LAYERS, check=error_of(some)),
        ],
        "error / optimum",
    )


def signed(data: Path, out: Path, method: str) -> Comparison:
    """The comparison of a method that forms whole matrices, on two layers."""
    some = [data / f"combine-2-layers-{n}" for n in (1, 2, 3)]
    on = f"{FEW} layers"
    options = ["--method", method, "--density", "0.5", "--rank", "16"]
    check = None
    if method == "ties":
        # One narrow module: the reference is computed densely.
        def check(found: Path) -> str:
            return quality.of_ties(found, some, MODULES[1], rank=16, density=0.5)

    return Comparison(
        f"combine --method {method} --density 0.5: three adapters of rank 16 to rank 16",
        "loratools, combining alone",
        [
            Contender(
                f"loratools combine --method {method}",
                on,
                _loratools("combine", *some, "-o", out / "ours", *options),
                some,
                out / "ours",
                CHECKOUT,
                quality=check,
            ),
            _ours_alone(method, "0.5", on, some, out),
            _peft(method, "0.5", data, out, some, FEW, FEW, check=check),
        ],
        "error / optimum" if check else "",
    )


def _ours_alone(
    method: str, density: str, on: str, adapters: Sequence[Path], out: Path
) -> Contender:
    program = PROGRAMS / "loratools_combine.py"
    return Contender(
        "loratools, combining alone",
        on,
        _python(program, out / "alone", method, density, *adapters),
        adapters,
        out / "alone",
        CHECKOUT,
        timed_inside=True,
    )


def _peft(
    method: str,
    density: str,
    data: Path,
    out: Path,
    adapters: Sequence[Path],
    layers: int,
    of: int,
    *,
    check: Callable[[Path], str] | None,
) -> Contender:
    base = data / ("base-1b" if layers == LAYERS else "base-1b-2-layers")
    kind = METHODS[method]
    # PEFT saves an adapter that is not its default one in a folder of the adapter's name.
    within = None if check is None else lambda found: check(found / "combined")
    return Contender(
        f"PEFT {kind}, combining alone",
        f"{layers} layers",
        _python(PROGRAMS / "peft_combine.py", base, out / "peft", kind, density, *adapters),
        [base, *adapters],
        out / "peft",
        timed_inside=True,
        once=True,
        times=of / layers,
        quality=within,
    )


# --- resize and inspect -----------------------------------------------------------------------


def resizing(data: Path, out: Path, *, whole: bool) -> Comparison:
    """The comparison of resize; on the whole file the stand-in takes five quiet minutes."""
    lora = data / "lora-sdxl" / "lora-sdxl.safetensors"
    ours, theirs = out / "ours.safetensors", out / "dense.safetensors"

    def check(found: Path) -> str:
        return quality.of_resized(found, lora, rank=32)

    command = _loratools("resize", lora, "-o", ours, "--rank", "32")
    on = "314 modules"
    name = "full SVD of every product (stand-in for sd-scripts)"
    dense = _python(PROGRAMS / "dense_resize.py", lora, theirs, "32")
    if whole:
        stand_in = Contender(name, on, dense, [lora.parent], theirs, once=True, quality=check)
    else:
        few = "one module of each shape, extrapolated"
        stand_in = Contender(name, few, [*dense, "1"], [lora.parent], timed_inside=True)
    return Comparison(
        "resize: a kohya LoRA of SDXL's shapes, float16, from rank 128 to 32",
        "loratools resize",
        [
            Contender(IDLE, "", _python("-c", "import torch"), []),
            Contender(
                "loratools resize", on, command, [lora.parent], ours, CHECKOUT, quality=check
            ),
            stand_in,
        ],
        "error / optimum",
    )


def measuring(data: Path) -> Comparison:
    lora = data / "lora-sdxl" / "lora-sdxl.safetensors"
    command = _loratools("inspect", "--spectrum", lora)
    on = "314 modules"
    return Comparison(
        "inspect --spectrum: the same kohya LoRA",
        "loratools inspect --spectrum",
        [
            Contender("loratools inspect --spectrum", on, command, [lora.parent], None, CHECKOUT),
            Contender(
                "norms of the factors as lists (stand-in for lora-inspector)",
                on,
                _python(PROGRAMS / "listed_norms.py", lora),
                [lora.parent],
            ),
            Contender(
                "two norms of every product, multiplied out",
                on,
                _python(PROGRAMS / "dense_norms.py", lora),
                [lora.parent],
            ),
        ],
    )


# --- svd-extract ------------------------------------------------------------------------------


def extracting(
    data: Path, out: Path, spectrum: str, mergekit: str | None, *, whole: bool
) -> Comparison:
    few = (data / f"tuned-2-layers-{spectrum}", data / "base-1b-2-layers")
    every = (data / f"tuned-1b-{spectrum}", data / "base-1b")

    theirs = every if whole else few
    layers = LAYERS if whole else FEW

    def best(models: tuple[Path, Path]) -> Callable[[Path], str]:
        return lambda found: quality.of_extracted(found, *models, rank=32)

    contenders = [
        Contender(
            "loratools svd-extract",
            f"{LAYERS} layers",
            _loratools("svd-extract", *every, "-o", out / "ours", "--rank", "32"),
            every,
            out / "ours",
            CHECKOUT,
            quality=best(every),
        )
    ]
    if mergekit:
        models = ["--model", theirs[0], "--base-model", theirs[1], "--out-path", out / "mergekit"]
        start = "mergekit-extract-lora --help"
        contenders += [
            Contender(start, "", [mergekit, "--help"], []),
            Contender(
                "mergekit-extract-lora",
                f"{layers} layers",
                [mergekit, *map(str, models), "--max-rank", "32"],
                theirs,
                out / "mergekit",
                once=True,
                times=LAYERS / layers,
                start=start,
                quality=best(theirs),
            ),
        ]
    what = {"lora": "LoRA-like", "slow": "slowly decaying"}[spectrum]
    return Comparison(
        f"svd-extract: rank 32 of a bfloat16 fine-tune of 1.2 B, {what} update",
        "loratools svd-extract",
        contenders,
        "energy kept / best",
    )
