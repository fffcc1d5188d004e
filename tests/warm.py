"""A `loratools` for examples in shells that is forked from a process with torch already imported.

Importing torch takes longer than most commands do. `warm_program` makes a folder for the PATH. The
`loratools` in it passes its arguments, working directory, environment and standard streams to a
process that has imported torch, and exits with the exit code of the command there. Tests of the
start of a command, or of signals, run the real program instead.
"""

import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import loratools

_SERVE = "from tests.warm import serve; serve({path!r})"
_PROGRAM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode("utf-8")
    socket.send_fds(server, [call[:1]], [0, 1, 2])
    server.sendall(call[1:])
    server.shutdown(socket.SHUT_WR)
    code = server.recv(1)
sys.exit(code[0] if code else "the command died")
"""


@contextmanager
def warm_program(folder: Path) -> Iterator[Path]:
    """Yield `folder` with a `loratools` in it, which works until the end of the block."""
    folder.mkdir()
    path = str(folder / "socket")
    program = folder / "loratools"
    program.write_text(_PROGRAM.format(python=sys.executable, path=path))
    program.chmod(0o755)
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE.format(path=path)], cwd=root, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            yield folder
        finally:
            server.kill()


def serve(path: str) -> None:
    """Run commands for callers until killed; a line on stdout says when it is ready."""
    for module in pkgutil.walk_packages(loratools.__path__, "loratools."):
        if not module.name.startswith(("loratools.hub", "loratools.__main__")):
            importlib.import_module(module.name)
    assert "huggingface_hub" not in sys.modules, "it reads the environment when it is imported"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that have answered
        os.write(1, b"ready\n")
        while True:
            caller, _ = listener.accept()
            if os.fork() == 0:
                _answer(caller)
            caller.close()


def _answer(caller: socket.socket) -> None:
    from loratools.cli import run

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    start, files, *_ = socket.recv_fds(caller, 1, 3)
    arguments, folder, environment = json.loads(start + caller.makefile("rb").read())
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["loratools", *arguments]
    code = run()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    caller.sendall(bytes([code]))
    os._exit(code)
