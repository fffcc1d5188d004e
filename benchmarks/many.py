"""Time verbs on an adapter of very many tiny targets, where little of the time is arithmetic.

    python benchmarks/many.py OUT --targets 200000

The adapter has rank 1 on matrices of 4 × 4, named like the experts of a large model; its base has
nothing else. Both are made where OUT lacks them. The table has the seconds of the work in one
process, without imports: an adapter of one target is inspected first, which imports the dialects.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from draws import Draw, write_safetensors
from machine import describe

import loratools
from loratools.publishing.publishable import publishable

PARTS: Final = ("gate_proj", "up_proj", "down_proj")
EXPERTS: Final = 512
SIZE: Final = 4


def modules(count: int) -> list[str]:
    """The names of `count` modules, expert by expert, layer by layer."""
    return [
        f"model.layers.{number // (3 * EXPERTS)}.mlp.experts.{number // 3 % EXPERTS}."
        f"{PARTS[number % 3]}"
        for number in range(count)
    ]


def write_base(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    draws = [Draw(f"{m}.weight", (SIZE, SIZE), torch.bfloat16, 0.02) for m in modules(count)]
    write_safetensors(folder / "model.safetensors", draws, folder.name)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


def write_adapter(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    prefix = "base_model.model."
    draws = [
        Draw(f"{prefix}{module}.{part}.weight", shape, torch.float32, 0.1)
        for module in modules(count)
        for part, shape in (("lora_A", (1, SIZE)), ("lora_B", (SIZE, 1)))
    ]
    write_safetensors(folder / "adapter_model.safetensors", draws, folder.name)
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": list(PARTS)}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def made(out: Path, count: int) -> tuple[Path, Path]:
    """The base and the adapter of `count` targets, which are made if `out` lacks them."""
    base, adapter = (out / f"many-{count}-{what}" for what in ("base", "adapter"))
    for folder, write in ((base, write_base), (adapter, write_adapter)):
        if not folder.exists():
            write(folder, count)
    return base, adapter


def verbs(base: Path, adapter: Path, output: Path) -> dict[str, Callable[[], object]]:
    """The functions to be timed, by the command that each stands for."""
    halved = loratools.Rescaling(strength=0.5)
    plan = loratools.MergeOptions()
    return {
        "inspect": lambda: loratools.inspect(adapter).to_json(),
        "inspect --check": lambda: loratools.inspect(adapter, spectrum=True).is_sound,
        "rescale --strength 0.5": lambda: loratools.rescale(
            adapter, output=output / "rescaled", rescaling=halved
        ).to_json(),
        "resize --rank 1": lambda: loratools.resize(
            adapter, output=output / "resized", rule=loratools.RankRule(rank=1)
        ).to_json(),
        "combine": lambda: loratools.combine(
            [adapter, output / "rescaled"], output=output / "combined"
        ).to_json(),
        "merge --dry-run": lambda: loratools.merge(
            base, [adapter], output=None, options=plan
        ).to_json(),
        "push, its checks": lambda: publishable(adapter, all_files=False).checked(None),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--targets", type=int, default=200_000)
    parser.add_argument("--only", help="commands to time, divided by semicolons")
    options = parser.parse_args(arguments)
    base, adapter = made(options.out, options.targets)
    _, single = made(options.out, 1)
    loratools.inspect(single).to_json()
    output = options.out / "written"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    print(describe())
    print(f"\n| {options.targets} targets | s |\n|---|--:|")
    for name, work in verbs(base, adapter, output).items():
        if options.only is None or name in options.only.split(";"):
            began = time.perf_counter()
            work()
            print(f"| `{name}` | {time.perf_counter() - began:.1f} |", flush=True)


if __name__ == "__main__":
    main()
