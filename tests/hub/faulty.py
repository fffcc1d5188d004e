"""A fault of the Hub as a row: how it is brought about, and what becomes of a command under it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tests.e2e.commands import PLAIN, Result
from tests.hub.server import Hub
from tests.hub.server.accounts import Role
from tests.hub.server.fault import Fault

REPO = "ann/plain"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
FILES = {name: (PLAIN / name).read_bytes() for name in (CONFIG, WEIGHTS)}
#: In the storage, which is an origin of its own.
BLOB = f"^/{REPO}/[0-9a-f]{{64}}"


@dataclass(frozen=True)
class Under:
    """What a row may change: the Hub, the environment of the process, the command line."""

    hub: Hub
    patch: pytest.MonkeyPatch
    folder: Path = Path()  # what is pushed
    options: list[str] = field(default_factory=list)
    repo: list[str] = field(default_factory=lambda: [REPO])

    def heal(self) -> None:
        """Take all of it back."""
        self.patch.undo()
        self.hub.rules.clear()
        if REPO in self.hub.repos:
            self.hub.repos[REPO].gated = self.hub.repos[REPO].private = False


Arrange = Callable[[Under], object]


@dataclass(frozen=True)
class Row:
    """`fault` in the words of the documentation; `code` of the run, and what its error says.

    `ends` adds to the documentation what is not told by the code.
    """

    fault: str
    arrange: Arrange
    code: int = 0
    says: str = ""
    ends: str = ""
    commits: int | None = None  # of others as well, after a push; None: ours, if it succeeds
    takes_turns: bool = False  # somebody else commits meanwhile

    @property
    def outcome(self) -> str:
        """As the documentation has it."""
        word = {0: "succeeds", 1: "refused", 4: "fails"}[self.code]
        return f"{word}: {self.ends}" if self.ends else word


def strikes(fault: Fault, path: str = "", method: str | None = None, **times: Any) -> Arrange:
    """A fault of one kind of request, the first time that it comes."""
    return lambda under: under.hub.fail(fault, path, method=method, **times)


def each_of(steps: Iterable[tuple[str, str]], fault: Fault, **times: Any) -> Arrange:
    """The same fault of several kinds of request, of each once."""
    return lambda under: [
        under.hub.fail(fault, path, method=method, **times) for path, method in steps
    ]


def both(*arrangements: Arrange) -> Arrange:
    return lambda under: [arrange(under) for arrange in arrangements]


def sends_to(repo: str) -> Callable[[Under], None]:
    """The command names another repository."""

    def rename(under: Under) -> None:
        under.repo[:] = [repo]

    return rename


def has_token(name: str | None, role: Role = "write") -> Callable[[Under], None]:
    """The user whose token the command has; None for a token that nobody has."""
    return lambda under: under.patch.setenv(
        "HF_TOKEN", "hf_nobodys" if name is None else under.hub.user(name, role)
    )


def goes_offline(under: Under) -> None:
    under.patch.setattr(constants, "HF_HUB_OFFLINE", True)


def is_nowhere(under: Under) -> None:
    """Nobody listens where the Hub should be."""
    url = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, under.hub.nowhere)
    under.patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    under.patch.setattr(constants, "ENDPOINT", under.hub.nowhere)


def line_of(result: Result) -> str:
    """The one line of an error."""
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("Error: ")
    assert len(result.err) <= 501, result.err
    return result.err


def unfinished(*folders: Path) -> list[Path]:
    """What should not be left of a run, of ours or of the client."""
    found = [path for folder in folders for path in folder.rglob("*")]
    return [p for p in found if ".loratools-partial" in p.name or p.name.endswith(".incomplete")]


def home() -> Path:
    """The folder of the client and of our notes."""
    return Path(constants.HF_HOME)


def everything(folder: Path) -> set[str]:
    """The paths of all there is in a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
