"""Commands of every verb, for tests of laws that hold for all verbs. A new verb is added here."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

import loratools
from loratools import RankRule, Rescaling
from loratools.files.opening import open_base
from tests.e2e.commands import PLAIN, SINGLE, SMALL
from tests.hub.faulty import FILES, REPO
from tests.hub.server import Hub
from tests.merged import write_base
from tests.narrowing import present


@dataclass(frozen=True)
class Verb:
    """Ways to run a verb.

    Attributes:
        arguments: returns the arguments of one run, given a Hub and a folder of its own, in which
            the output is `out`, after `-o`. Inputs are `Path`s, and are there.
        of_adapter: returns the arguments of several runs, given a Hub, an adapter, and a base that
            fits it.
        in_python: calls the verb's function, given the paths or the names of a base, of two
            adapters that fit it (a verb that takes one takes the first) and of an output, and
            returns its report. None for a verb that computes nothing with an adapter's numbers.
        calls: the name of a function that the verb calls in the middle of its work. A verb that
            writes an output calls `os.fsync` for each file and folder, and at last when the output
            has its name. Swaps have no output of their own; tests/swapping has their tests.
    """

    arguments: Callable[[Hub, Path], list[object]]
    of_adapter: Callable[[Hub, Path, Path], list[list[object]]]
    in_python: Callable[[Any, Any, Any, Path], Any] | None
    calls: str = "os.fsync"

    @property
    def computes(self) -> bool:
        """Whether the verb computes with the numbers of an adapter."""
        return self.in_python is not None

    @property
    def writes(self) -> bool:
        """Whether the verb writes an output to disk."""
        return self.calls == "os.fsync"

    def typed(self, hub: Hub, folder: Path) -> tuple[list[str], int]:
        """The arguments of one run as they are typed, and the index of the output among them."""
        arguments = [str(argument) for argument in self.arguments(hub, folder)]
        return arguments, arguments.index("-o") + 1


def _tuned(folder: Path) -> Path:
    loratools.merge(SINGLE, SMALL, output=folder / "tuned")
    return folder / "tuned"


def _extract(base: Any, one: Any, other: Any, output: Path) -> Any:
    tuned = output.with_name(f"{output.name} tuned")
    loratools.merge(base, one, output=tuned)
    return loratools.svd_extract(tuned, base, output=output)


def own(base: Any, folder: Path) -> Path:
    """A new copy of a base, at a path or on the Hub, whose files may be rewritten."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(present(open_base(base, companions=True).path), folder))


def _odd(adapter: Path) -> Path:
    """A base whose weights have the numbers of an adapter's up factors."""
    folder = adapter.with_name(f"{adapter.name} as weights")
    if not folder.exists():
        numbers = load_file(adapter / "adapter_model.safetensors")
        ups = [up.repeat(1, 3) for name, up in sorted(numbers.items()) if "lora_B" in name]
        write_base(folder, {"m.a.weight": ups[0], "m.b.weight": ups[1]})
    return folder


def _pushed(folder: Path) -> Path:
    (folder / "pushed").mkdir()
    for name, data in FILES.items():
        (folder / "pushed" / name).write_bytes(data)
    return folder / "pushed"


def _pull(hub: Hub, folder: Path) -> list[object]:
    hub.create_repo(REPO, FILES)
    return [REPO, "-o", folder / "out"]


def _sent(hub: Hub, adapter: Path, base: Path) -> list[list[object]]:
    return [[adapter, REPO, "--create", "--base", "ann/base"], [adapter, REPO, "--create", "--pr"]]


def _fetched(hub: Hub, adapter: Path, base: Path) -> list[list[object]]:
    name = f"ann/{adapter.name}"
    hub.create_repo(name, {file.name: file.read_bytes() for file in adapter.iterdir()})
    return [[name, "-o", "out", "--lock", "lock.json"]]


def _combined(hub: Hub, adapter: Path, base: Path) -> list[list[object]]:
    ways: list[list[object]] = [
        [], ["-w", 1, "-w", -1], ["-w", 1, "-w", -1, "--energy", 0.9], ["-w", 0, "-w", 0],
        ["-w", 1e308, "-w", 1e308, "--rank", 1], ["--method", "slerp", "--rank", 2],
        ["--method", "ties", "--density", 0.5, "--rank", 2], ["--method", "sce", "--rank", 2],
        ["--method", "knots", "--density", 0.5, "--rank", 2],
    ]  # fmt: skip
    return [[adapter, adapter, "-o", "out", *way] for way in ways]


VERBS = {
    "inspect": Verb(
        lambda hub, folder: [PLAIN, "--check"],
        lambda hub, adapter, base: [
            [adapter, "--check"],
            [adapter, "--spectrum", "--blocks", "--base", base],
        ],
        lambda base, one, other, output: loratools.inspect(one, base=base, spectrum=True),
        "os.preadv",
    ),
    "merge": Verb(
        lambda hub, folder: [SINGLE, SMALL, "-o", folder / "out"],
        lambda hub, adapter, base: [
            [base, adapter, "-o", "out", "-w", weight] for weight in (1, 0, 1e308)
        ],
        lambda base, one, other, output: loratools.merge(base, [one, other], output=output),
    ),
    "rescale": Verb(
        lambda hub, folder: [SMALL, "--strength", 0.5, "-o", folder / "out"],
        lambda hub, adapter, base: [
            [adapter, "-o", "out", *way]
            for way in (
                ["--strength", 0],
                ["--strength", 1e308],
                ["--strength", 1e-320],
                ["--block-weights", "BASE=1e308"],
                ["--fold"],
                ["--alpha", 1e308],
                ["--balance"],
                ["--rule", "rslora"],
            )
        ],
        lambda base, one, other, output: loratools.rescale(
            one, output=output, rescaling=Rescaling(strength=0.5, keep_replaced=True)
        ),
    ),
    "convert": Verb(
        lambda hub, folder: [SMALL, "--to", "peft", "-o", folder / "out"],
        lambda hub, adapter, base: [
            [adapter, "-o", "out", "--to", "peft", *way]
            for way in ([], ["--dtype", "float16"], ["--dtype", "float64"], ["--drop", "m.a"])
        ],
        lambda base, one, other, output: loratools.convert(one, output=output, to="peft"),
    ),
    "combine": Verb(
        lambda hub, folder: [SMALL, SMALL, "-o", folder / "out"],
        _combined,
        lambda base, one, other, output: loratools.combine([one, other], output=output),
    ),
    "resize": Verb(
        lambda hub, folder: [SMALL, "--rank", 2, "-o", folder / "out"],
        lambda hub, adapter, base: [
            [adapter, "-o", "out", *way]
            for way in (["--rank", 1], ["--rank", 9], ["--energy", 0.9], ["--size", 2000])
        ],
        lambda base, one, other, output: loratools.resize(
            one, output=output, rule=RankRule(rank=2)
        ),
    ),
    "svd-extract": Verb(
        lambda hub, folder: [_tuned(folder), SINGLE, "--rank", 1, "-o", folder / "out"],
        lambda hub, adapter, base: [
            [tuned, base, "-o", "out", "--rank", 1, "--check"] for tuned in (base, _odd(adapter))
        ],
        _extract,
    ),
    "swap": Verb(
        lambda hub, folder: [own(SINGLE, folder / "model"), "--in", SMALL],
        lambda hub, adapter, base: [
            [own(base, adapter.with_name("model")), "--in", adapter, "-w", weight]
            for weight in (1, 0, 1e308)
        ],
        lambda base, one, other, output: loratools.swap(
            own(base, output.with_name("model")), [one, other]
        ),
        "os.preadv",
    ),
    "formats": Verb(
        lambda hub, folder: [],
        lambda hub, adapter, base: [[]],
        None,
        "loratools.describing.formats.all_formats",
    ),
    "pull": Verb(_pull, _fetched, None),
    "push": Verb(
        lambda hub, folder: [_pushed(folder), REPO, "--create", "--base", "ann/base"],
        _sent,
        None,
        "loratools.hub.writing.commit",
    ),
}

#: The verbs of `loratools/reshaping`, which make adapters from adapters.
RESHAPING = {
    name: present(verb.in_python)
    for name, verb in VERBS.items()
    if verb.computes
    and getattr(loratools, name.replace("-", "_")).__module__.startswith("loratools.reshaping.")
}
