#!/usr/bin/env python
"""Kill swaps at random moments, and check that the next command finds the old or the new model.

    python scripts/swap_loop.py --kills 100 [--seed 0] [--megabytes 64]

A model of two weight files gets one adapter after another: the first, another in its place, both,
or none. Each swap is killed at a random moment of its run, mostly while it writes; so is, now and
then, the command that comes after it. Then `loratools swap MODEL` must find the adapters that were
in before or those that were to be in, and every weight file must have the SHA-256 that it has with
these; with none, that of the base. No file but the weight files may change at any time.

Prints a table; exits 1 if any promise was broken. Linux only.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from kill_loop import _start as start
from kill_loop import digest

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

SIDE: Final = 1024
NAMES: Final = ("first", "second")
#: The adapters that may be in the model.
CHOICES: Final = ((), ("first",), ("second",), ("first", "second"))


@final
@dataclass
class Bench:
    """A model, adapters, the digests that the model may have, and how long each swap takes."""

    folder: Path
    contents: dict[tuple[str, ...], str | None] = field(default_factory=dict)
    seconds: dict[tuple[str, ...], tuple[float, float]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @property
    def model(self) -> Path:
        """The model that is swapped in."""
        return self.folder / "model"

    @property
    def journal(self) -> Path:
        """The folder in which swaps keep the model's state."""
        return self.model / ".m-00001-of-00002.safetensors.loratools-swap"

    def arguments(self, names: tuple[str, ...]) -> list[str]:
        """The command line that puts these adapters in, after `loratools`."""
        adapters = [word for name in names for word in ("--in", str(self.folder / name))]
        return ["swap", str(self.model), *(adapters or ["--out"])]

    def measure(self) -> None:
        """Make each swap once undisturbed: note the model's digests and the time it takes."""
        self.contents[()] = self.digest()
        for names in (*CHOICES[1:], CHOICES[0]):
            begin = time.monotonic()
            process = start(self.arguments(names))
            wait_for_writing(self.journal, process)
            decided = time.monotonic()
            process.join()
            self.seconds[names] = decided - begin, time.monotonic() - decided
            found = self.digest()
            self.check(
                holds=process.exitcode == 0 and self.contents.setdefault(names, found) == found,
                promise=f"an undisturbed swap to {names} (exit {process.exitcode})",
            )

    def digest(self) -> str | None:
        """One digest of all files of the model, but for what swaps keep."""
        kept = self.folder / "kept"
        if self.journal.exists():
            self.journal.rename(kept)
        found = digest(self.model)
        if kept.exists():
            kept.rename(self.journal)
        return found

    def check(self, *, holds: bool, promise: str) -> None:
        """Note `promise` as broken unless it `holds`."""
        if not holds:
            self.broken.append(promise)
            print(f"BROKEN: {promise}", flush=True)

    def state(self) -> tuple[tuple[str, ...], bool]:
        """The adapters that the journal names, and whether a swap is interrupted."""
        if not (self.journal / "state.json").exists():
            return (), False
        state = json.loads((self.journal / "state.json").read_text())
        names = tuple(Path(adapter["path"]).name for adapter in state["adapters"])
        return names, any(tensor["source"] for tensor in state["tensors"].values())


def make(bench: Bench, megabytes: int) -> None:
    """Write a model of random weights in bfloat16, and adapters on all of them and on half."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    count = max(2, megabytes * 10**6 // (2 * SIDE * SIDE))
    names = [f"m.{number}.weight" for number in range(count)]
    bench.model.mkdir(parents=True)
    placed = {}
    for number in range(2):
        file = f"m-0000{number + 1}-of-00002.safetensors"
        mine = names[number::2]
        weights = {n: torch.randn(SIDE, SIDE, generator=generator).bfloat16() for n in mine}
        save_file(weights, bench.model / file)
        placed |= dict.fromkeys(mine, file)
    index = {"metadata": {}, "weight_map": placed}
    (bench.model / "m.safetensors.index.json").write_text(json.dumps(index))
    for adapter, step in zip(NAMES, (1, 2), strict=True):
        factors = {}
        for name in names[::step]:
            for part, shape in (("A", (4, SIDE)), ("B", (SIDE, 4))):
                key = f"base_model.model.{name.removesuffix('.weight')}.lora_{part}.weight"
                factors[key] = torch.randn(*shape, generator=generator)
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["x"]}
        config["target_modules"] = [name.removesuffix(".weight") for name in names[::step]]
        (bench.folder / adapter).mkdir()
        save_file(factors, bench.folder / adapter / "adapter_model.safetensors")
        (bench.folder / adapter / "adapter_config.json").write_text(json.dumps(config))


def wait_for_writing(journal: Path, process: "ForkProcess") -> None:
    """Wait until a swap has been decided, and so writes into the model."""
    while process.is_alive():
        try:
            if '"source": "' in (journal / "state.json").read_text():
                return
        except OSError:
            pass
        time.sleep(0.0005)


def kill_loop(bench: Bench, kills: int, seed: int) -> Counter[str]:
    """Kill swaps, from whatever is in to something else; count what was found after each."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    now: tuple[str, ...] = ()
    for number in range(kills):
        wanted = rng.choice([names for names in CHOICES if names != now])
        killed = kill_somewhere(bench, rng, bench.arguments(wanted), bench.seconds[wanted])
        was_half = bench.state()[1]
        torn = bench.digest() not in bench.contents.values()
        bench.check(holds=was_half or not torn, promise=f"kill {number}: torn and not noted")
        if was_half and rng.random() < 0.3:
            again = rng.choice([["swap", str(bench.model)], bench.arguments(now)])
            kill_somewhere(bench, rng, again, (0.0, bench.seconds[wanted][1]))
            counts["the next command was killed, too"] += 1
        process = start(["swap", str(bench.model)])
        process.join()
        bench.check(holds=process.exitcode == 0, promise=f"kill {number}: {process.exitcode}")
        names, is_half = bench.state()
        bench.check(
            holds=not is_half
            and names in (now, wanted)
            and bench.digest() == bench.contents[names],
            promise=f"kill {number}: {now} to {wanted}: {names} with other bytes",
        )
        left = {path.name for path in bench.journal.glob("*") if path.name.startswith("next")}
        bench.check(
            holds=not left and bench.journal.exists() == bool(names),
            promise=f"kill {number}: {names}: left {left}",
        )
        what = "ran to its end" if not killed else "new" if names == wanted else "old"
        counts[what] += 1
        counts["a mixture before the next command"] += torn
        counts["decided and not completed before the next command"] += was_half
        now = names
    process = start(bench.arguments(()))
    process.join()
    bench.check(holds=bench.digest() == bench.contents[()], promise="out is not the base")
    return counts


def kill_somewhere(
    bench: Bench, rng: random.Random, arguments: list[str], seconds: tuple[float, float]
) -> bool:
    """Run a command and kill it at a random moment; return False if it had ended before.

    Half of the kills come after the swap has been decided, in the shorter part of its time.
    """
    before, after = seconds
    process = start(arguments)
    if rng.random() < 0.5:
        delay = rng.uniform(0, before + after)
    else:
        wait_for_writing(bench.journal, process)
        delay = after * rng.random() ** 3  # it copies first, and verifies then
    process.join(timeout=delay)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="how many swaps to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the swaps and the moments")
    parser.add_argument("--megabytes", type=int, default=64, help="the size of the model")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder, "work"))
        make(bench, arguments.megabytes)
        bench.measure()
        counts = kill_loop(bench, arguments.kills, arguments.seed)
        shutil.rmtree(bench.folder)
    for what, count in sorted(counts.items()):
        print(f"{what:60} {count:5}")
    print(f"{arguments.kills} swaps, {len(bench.broken)} promises broken")
    return 1 if bench.broken else 0


if __name__ == "__main__":
    sys.exit(main())
