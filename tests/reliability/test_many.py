"""Four times as many targets cost a verb four times as much.

Calls of Python functions are counted, which repeat exactly, and no time is measured.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import loratools
from loratools.io.collector import collector_paused
from loratools.names.components import Style
from loratools.names.translated import translated
from loratools.publishing.publishable import publishable
from loratools.reshaping.rescale import RescaleReport
from tests.merged import pair, write_adapter, write_base
from tests.verbs import VERBS

PARTS = ("gate", "up", "down")
FEW = 60


def written(folder: Path, count: int) -> tuple[Path, Path]:
    """A base, and an adapter on all its weights: each with a rank pattern, and saved modules."""
    modules = [f"layers.{n // 3 // 8}.experts.{n // 3 % 8}.{PARTS[n % 3]}" for n in range(count)]
    factors = {k: t for m in modules for k, t in pair(m, 2, 2, rank=1).items()}
    norms = {f"layers.{n}.norm.weight": torch.ones(2) for n in range(count)}
    base = write_base(
        folder / "base", {f"{m}.weight": torch.ones(2, 2) for m in modules} | norms, {}
    )
    adapter = write_adapter(
        folder / "adapter",
        factors | norms,
        target_modules=modules,
        rank_pattern=dict.fromkeys(modules, 1),
        alpha_pattern={module: 1 + n % 7 for n, module in enumerate(modules)},
        modules_to_save=[name.removesuffix(".weight") for name in norms],
    )
    return base, adapter


def steps(work: Callable[[], object]) -> int:
    """The calls of Python and of C functions that `work` makes in this thread."""
    made = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return made


def run(name: str) -> Callable[[Path, Path, Path], object]:
    def work(base: Path, adapter: Path, output: Path) -> None:
        run_of_verb = VERBS[name].in_python
        assert run_of_verb is not None
        report = run_of_verb(base, adapter, adapter, output)
        report.to_json()
        if isinstance(report, RescaleReport):
            assert sum(map(len, report.groups().values())) == len(report.strengths)

    return work


#: What every verb does, and what some do at other options or before they use the network.
WORK: dict[str, Callable[[Path, Path, Path], object]] = {
    **{name: run(name) for name, verb in VERBS.items() if verb.computes},
    "header": lambda base, adapter, output: loratools.inspect(adapter).to_json(),
    "check": lambda base, adapter, output: loratools.inspect(adapter, spectrum=True).is_sound,
    "cover": lambda base, adapter, output: loratools.inspect(adapter, base=base).to_json(),
    "resize to all": lambda base, adapter, output: loratools.resize(
        adapter, output=output
    ).to_json(),
    "plan": lambda base, adapter, output: loratools.merge(base, adapter, output=None).to_json(),
    "push": lambda base, adapter, output: publishable(adapter, all_files=False).checked(
        None, lambda: None
    ),
}


@pytest.mark.parametrize("work", WORK)
def test_the_work_is_linear_in_the_number_of_targets(work: str, tmp_path: Path) -> None:
    found: list[int] = []
    for times in (1, 1, 4):  # the first imports what the verb needs
        folder = tmp_path / str(len(found))
        base, adapter = written(folder, times * FEW)
        found.append(steps(partial(WORK[work], base, adapter, folder / "written")))
    assert found[2] < 4.4 * found[1]


def test_strengths_of_a_hundred_thousand_targets_are_grouped_at_once() -> None:
    strengths = {f"layers.{n}.q.weight": float(n) for n in range(100_000)}
    report = RescaleReport("here", strengths, (), None, None)
    began = time.process_time()
    assert report.groups() == {"layers.*.q.weight": tuple(strengths.values())}
    assert time.process_time() - began < 3  # 0.2 here; a copy for each takes 20


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("model.layers.{}.self_attn.q_proj.weight", "modules", "language"),
        ("lora_te1_text_model_encoder_layers_{}_mlp_fc1.weight", "flattened", "comfyui"),
    ],
)
def test_twenty_thousand_names_are_translated_at_once(
    name: str, source: Style, target: Style
) -> None:
    shapes = {name.format(number): (4, 4) for number in range(20_000)}
    began = time.process_time()
    with collector_paused():  # as in the verbs; it would look through what other tests have left
        assert not translated(shapes, source, target).refused
    assert time.process_time() - began < 3  # 0.5 here; to go through all names for each takes 10
