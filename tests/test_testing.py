"""The strategies for others' tests draw what they say, and need hypothesis only when they draw."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loratools import testing
from loratools.adapter import Adapter
from loratools.deltas import Delta
from loratools.files.checkpoints import open_checkpoint
from loratools.io.checkpoint import Checkpoint
from loratools.io.source import Held
from loratools.merging.plan import MergeOptions
from loratools.merging.planner import plan_merge
from tests.merged import eighths, write_base

SHAPES = {"layers.0.q.weight": (4, 3), "layers.0.k.weight": (2, 2), "conv.weight": (3, 2, 3)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    tensors = {name: eighths(*shape) for name, shape in SHAPES.items()}
    return open_checkpoint(write_base(tmp_path_factory.mktemp("base") / "base", tensors))


@given(adapter=testing.adapters(SHAPES), weight=st.floats(0, 2))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_drawn_adapter_can_be_merged(base: Checkpoint, adapter: Adapter, weight: float) -> None:
    assert adapter.updates
    plan = plan_merge(base, [adapter], [weight], MergeOptions())
    assert len(plan.accounting.applied) == plan.accounting.total
    assert {tensor.name for tensor in plan.changed} == set(adapter.updates)


@given(data=st.data(), shape=testing.shapes())
def test_drawn_delta_has_the_shape_that_was_asked_for(
    data: st.DataObject, shape: tuple[int, ...]
) -> None:
    delta: Delta = data.draw(testing.deltas(shape))
    assert delta.shape == shape
    assert all(min(source.shape) >= 1 for source in delta.sources)


def test_eighths_are_exact_in_every_dtype() -> None:
    @given(
        one=testing.eighths("one", (3, 3), "BF16"), other=testing.eighths("other", (3, 3), "F64")
    )
    def check(one: Held, other: Held) -> None:
        for tensor in (one.tensor.double() * 8, other.tensor * 8):
            assert (tensor == tensor.round()).all()
            assert tensor.abs().max() <= 16

    check()


def test_module_is_imported_without_hypothesis(tmp_path: Path) -> None:
    code = "import sys; sys.modules['hypothesis'] = None; import loratools.testing"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
