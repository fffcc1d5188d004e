"""The setup of all tests: checked shapes, no network, reproducible examples, common fixtures."""

import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, runtime_checkable

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, settings

from loratools.errors import LoratoolsError, escaped, shorten
from loratools.io.source import Source
from loratools.parts import Note
from loratools.showing.shown import Shown
from tests.wording import shell_words

runtime_checkable(Source)  # else beartype cannot tell one
# Before the first import of these modules. The tower lets an int stand for a float.
jaxtyping.install_import_hook(
    [
        "loratools.lowrank",
        "loratools.methods",
        "loratools.io.blocks",
        "loratools.io.rounding",
        "loratools.merging.fidelity",
    ],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)
os.environ.pop("COLUMNS", None)  # which pytest's workers set: it is how wide tables are
os.environ["HF_HUB_OFFLINE"] = "1"  # for subprocesses, which the socket guard does not reach
# Tests send these signals, which a job in the background and nohup pass on as ignored.
for name in ("SIGINT", "SIGQUIT", "SIGHUP"):
    number = getattr(signal, name, None)  # not all exist on Windows
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        is_interrupt = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)

settings.register_profile(
    "local", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
settings.register_profile("nightly", settings.get_profile("local"), max_examples=1000)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "local")
)


CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    ],
)


@pytest.fixture(params=["apart", CUDA])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A device that stands in for a GPU, and a real GPU where there is one."""
    if request.param == "cuda":
        yield torch.device("cuda")
        return
    from tests.devices import device_apart

    with device_apart() as apart:
        yield apart


@pytest.fixture(autouse=True, scope="session")
def errors_have_their_parts() -> Iterator[None]:
    """Every error made in a test names the tensor that it is given, and options as they are typed.

    That is: none of the command line's in Python.
    """
    make = LoratoolsError.__init__

    def checked(self: LoratoolsError, message: str = "", **parts: Any) -> None:
        make(self, message, **parts)
        assert shell_words(str(self)) == [], str(self)
        if parts.get("tensor") is not None:
            assert escaped(shorten(parts["tensor"])) in str(self), f"{self} is about {parts}"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoratoolsError, "__init__", checked)
        yield


@pytest.fixture(autouse=True, scope="session")
def notes_and_reports_are_in_the_words_of_their_reader() -> Iterator[None]:
    """In Python they name no option of the command line: see `shell_words`."""
    make, text = Note.__init__, Shown.__str__

    def checked(self: Note, *args: Any, **fields: Any) -> None:
        make(self, *args, **fields)
        assert shell_words(self.message) == [], self.message

    def shown(self: Shown) -> str:
        found = text(self)
        assert shell_words(found) == [], found
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Note, "__init__", checked)
        patch.setattr(Shown, "__str__", shown)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Make connections to other machines fail; Unix sockets and loopback are allowed."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    look_up = socket.getaddrinfo

    def connect_here(self: socket.socket, address: Any) -> None:
        check(self, address)
        connect(self, address)

    def connect_ex_here(self: socket.socket, address: Any) -> int:
        check(self, address)
        return connect_ex(self, address)

    def look_up_here(host: Any, *rest: Any, **options: Any) -> Any:
        if not _is_loopback(host):
            refuse()
        return look_up(host, *rest, **options)

    def check(self: socket.socket, address: Any) -> None:
        if self.family != getattr(socket, "AF_UNIX", None) and not _is_loopback(address[0]):
            refuse()

    def refuse() -> NoReturn:
        raise RuntimeError("tests must not use the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        patch.setattr(socket.socket, "connect_ex", connect_ex_here)
        patch.setattr(socket, "getaddrinfo", look_up_here)
        yield


def _is_loopback(host: Any) -> bool:
    """Whether a host is a loopback address, or `localhost`."""
    name = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Compute with one thread, as a merge does, so that parallel tests do not compete for cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of stored bases and adapters."""
    return Path(__file__).parent.parent / "fixtures"


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PATH for examples: a `loratools` that starts at once, and the programs of this Python."""
    from tests.warm import warm_program

    with warm_program(tmp_path_factory.mktemp("programs") / "warm") as folder:
        yield os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
