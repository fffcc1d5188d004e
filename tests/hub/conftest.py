"""The Hub of a test: on loopback, empty, and the only one that the process knows."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers

from tests.e2e.commands import PLAIN
from tests.hub.server import Hub, Server, running


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The thread and its ports, for all tests of the process."""
    build_hf_headers()  # asks the Hub for a list once in a process; offline, it goes without
    with running() as server:
        yield server


@pytest.fixture
def hub(
    server: Server, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    """An empty Hub, to which the environment and the client of this process point."""
    home = tmp_path_factory.mktemp("home")
    hub = server.fresh(tmp_path_factory.mktemp("hub"))
    _point(hub, home, monkeypatch)
    _close_session()
    yield hub
    _close_session()
    assert not hub.errors, f"the server itself failed: {hub.errors!r}"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A copy of an adapter, which a test may change and push."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(PLAIN / name, folder / name)
    return folder


@pytest.fixture
def only_by_argument(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The Hub, for whoever passes its endpoint on; without it a request goes where nobody is."""
    monkeypatch.delenv("HF_ENDPOINT")
    _constants({"ENDPOINT": hub.nowhere}, monkeypatch)
    return hub


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that anybody in the process wanted to sleep: nobody does."""
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


def _point(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment, and what the client took from it when it was imported."""
    for name in list(os.environ):
        if name.startswith("HF_"):
            monkeypatch.delenv(name)
    for name, value in hub.variables(home).items():
        monkeypatch.setenv(name, value)
    cache = home / "huggingface"
    _constants(
        {
            "ENDPOINT": hub.endpoint,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache / "hub"),
            "HUGGINGFACE_HUB_CACHE": str(cache / "hub"),
            "HF_ASSETS_CACHE": str(cache / "assets"),
            "HF_XET_CACHE": str(cache / "xet"),
            "HF_TOKEN_PATH": str(cache / "token"),
            "HF_STORED_TOKENS_PATH": str(cache / "stored_tokens"),
        },
        monkeypatch,
    )


def _constants(values: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value, raising=False)
    template = f"{constants.ENDPOINT}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def _close_session() -> None:
    """The client keeps connections; a proxy's address of the environment is read when it opens."""
    if hasattr(huggingface_hub, "close_session"):
        huggingface_hub.close_session()
