"""A run of every verb, for laws that hold for all of them: a new verb has to be added here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import loratools
from tests.e2e.commands import PLAIN, SINGLE, SMALL
from tests.hub.faulty import FILES, REPO
from tests.hub.server import Hub


@dataclass(frozen=True)
class Verb:
    """`arguments` of a run, for a Hub and a folder of its own, where the output is `out`.

    `calls` names a function that it calls in the middle of its work. One that writes an output
    calls `os.fsync` for each file and folder, and lastly when the output has its name.
    """

    arguments: Callable[[Hub, Path], list[object]]
    calls: str = "os.fsync"

    @property
    def writes(self) -> bool:
        """Whether it writes an output."""
        return self.calls == "os.fsync"


def _tuned(folder: Path) -> Path:
    loratools.merge(SINGLE, SMALL, output=folder / "tuned")
    return folder / "tuned"


def _pushed(folder: Path) -> Path:
    (folder / "pushed").mkdir()
    for name, data in FILES.items():
        (folder / "pushed" / name).write_bytes(data)
    return folder / "pushed"


def _pull(hub: Hub, folder: Path) -> list[object]:
    hub.create_repo(REPO, FILES)
    return [REPO, "-o", folder / "out"]


VERBS = {
    "inspect": Verb(lambda hub, folder: [PLAIN, "--check"], "os.preadv"),
    "merge": Verb(lambda hub, folder: [SINGLE, SMALL, "-o", folder / "out"]),
    "rescale": Verb(lambda hub, folder: [SMALL, "--strength", 0.5, "-o", folder / "out"]),
    "combine": Verb(lambda hub, folder: [SMALL, SMALL, "-o", folder / "out"]),
    "resize": Verb(lambda hub, folder: [SMALL, "--rank", 2, "-o", folder / "out"]),
    "svd-extract": Verb(
        lambda hub, folder: [_tuned(folder), SINGLE, "--rank", 1, "-o", folder / "out"]
    ),
    "pull": Verb(_pull),
    "push": Verb(
        lambda hub, folder: [_pushed(folder), REPO, "--create", "--base", "ann/base"],
        "loratools.hub.writing.commit",
    ),
}
