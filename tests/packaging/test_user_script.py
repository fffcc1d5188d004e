"""A user's script runs, and calls every verb. That it is typed is checked by mypy.

`scripts/check` does that in the checkout, and `.ci/run` against the installed wheel.
"""

import ast
from pathlib import Path

import pytest

import loratools
from tests.hub.conftest import hub, server  # noqa: F401 - fixtures
from tests.hub.server import Hub
from tests.packaging import user_script
from tests.test_api import VERBS

SCRIPT = Path(user_script.__file__)


def test_script_calls_every_verb() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert set(VERBS) - named == set()


def test_script_lets_mypy_find_each_any() -> None:
    assert SCRIPT.read_text(encoding="utf-8").startswith("# mypy: disallow-any-expr\n")


def test_script_runs(
    fixtures: Path,
    tmp_path: Path,
    hub: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    adapter, base = fixtures / "adapters" / "plain", fixtures / "stories260k"
    assert any(line.startswith("35 of ") for line in user_script.look(adapter, base))
    assert len(user_script.make_models(adapter, base, tmp_path)) == 2
    assert len(user_script.make_adapters(adapter, tmp_path)) == 5
    assert user_script.compute(adapter, tmp_path)[-1] == str(tmp_path / "saved")
    loratools.merge(base, adapter, output=tmp_path / "tuned")
    lines = user_script.report(adapter, tmp_path / "tuned", base)
    assert lines[:2] == ["0.5", "ties (0.7, 1.0)"]
    assert "adapter_config.json" in user_script.publish(tmp_path / "half", "ann/half")
