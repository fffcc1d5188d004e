"""A bar shows on a terminal, in each verb that can take long, and nowhere else."""

import sys
from pathlib import Path

import pytest

from tests.e2e.commands import run_here
from tests.hub.conftest import hub, server  # noqa: F401 - fixtures
from tests.hub.server import Hub
from tests.verbs import VERBS

#: What a bar has, whatever it counts: the time since it began.
BAR = "[00:0"
#: Lists what the program can do.
AT_ONCE = {"formats"}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in AT_ONCE])
def test_bar_is_for_people(
    verb: str,
    hub: Hub,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def shown(name: str, *options: str) -> bool:
        (tmp_path / name).mkdir()
        result = run_here(capsys, verb, *VERBS[verb].arguments(hub, tmp_path / name), *options)
        assert result.code == 0, result.err
        assert BAR not in result.out
        return BAR in result.err

    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    assert not shown("pipe")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert shown("terminal")
    assert not shown("quiet", "-q")
    assert not shown("json", "--json")
