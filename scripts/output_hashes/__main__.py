"""Run every verb over every fixture, and print a line of hashes of the outputs of each command.

    PYTHONPATH=OLD python scripts/output_hashes > before
    PYTHONPATH=NEW python scripts/output_hashes > after
    diff before after    # prints nothing if no byte has changed

Only the command line is used, so this works with any revision of loratools on the path. The
inputs are the repository's fixtures and the small files that `inputs.py` makes. A line has the exit
code, three hashes, and the command. The hashes are 16 digits of a SHA-256, or `-` for nothing: of
the names and contents of all files written, of stdout, and of stderr. Commands that fail are cases
as well. `push` and `pull` use the Hub of the tests, and the contents of its repositories afterwards
count as files written.

With `--keep FOLDER` the outputs are kept, each in a folder named after its command, for `diff -r`.
A run takes four minutes of one core, and less if TMPDIR is in memory. It needs `os.fork`, which
Windows lacks.
"""

import argparse
import contextlib
import hashlib
import importlib
import os
import pkgutil
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, final

import inputs
from cases import Case, all_cases, bases_of, paths_in

if TYPE_CHECKING:
    from tests.hub.server import Hub, Server

ROOT: Final = Path(__file__).resolve().parents[2]
INPUTS: Final = ("fixtures", "made")
STREAMS: Final = ("stdout", "stderr")
#: Variables on which outputs depend: the number of threads, the terminal's width, the language.
SETTINGS: Final = {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "LC_ALL": "C.UTF-8"}


def all_verbs(machine: "Machine") -> list[str]:
    """The verbs of this revision, from its `--help`."""
    machine.run(Case("--help"))
    found = re.findall(r"^  ([a-z-]+)  ", Path("stdout").read_text().split("Commands:")[1], re.M)
    machine.clear()
    return sorted(found)


def all_methods(machine: "Machine") -> list[str]:
    """The methods of `combine` in this revision, from its `--help`."""
    machine.run(Case("combine --help"))
    found = re.search(r"--method \[([^\]]+)\]", Path("stdout").read_text())
    assert found is not None, "combine --help no longer shows its methods as a choice"
    machine.clear()
    return sorted(found[1].split("|"))


def make_tuned(machine: "Machine") -> list[tuple[str, str]]:
    """Merge each adapter into its first base; return each merged model with its base."""
    tuned = []
    for adapter in paths_in("fixtures/adapters", "fixtures/kohya", "made/adapters"):
        for base in bases_of(adapter)[:1]:
            model = f"made/tuned/{adapter.removesuffix('.safetensors').replace('/', '-')}"
            Path("made/tuned").mkdir(exist_ok=True)
            if machine.run(Case(f"merge {base} {adapter} -o {model} --allow-unmatched")) == 0:
                tuned.append((model, base))
            machine.clear()
    return tuned


# --- running -------------------------------------------------------------------------------------


@final
class Machine:
    """Runs commands in the current folder, each in a fork of this process."""

    def __init__(self, server: "Server", home: Path) -> None:
        self.server = server
        self.home = home

    def run(self, case: Case) -> int:
        """Run a command and return its exit code.

        Its outputs are then in the current folder: its files, and the files `stdout` and `stderr`
        with what it printed.
        """
        hub = self.server.fresh(self.home / "hub")
        token = hub.user("ann")
        if case.hosted is not None:
            hub.create_repo("ann/hosted", _contents(Path(case.hosted)))
        if case.own is not None:
            shutil.copytree(case.own, "out")
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _become(case.command.split(), token)
        _, status = os.waitpid(child, 0)
        assert not hub.errors, f"{case.command}: the Hub of the tests failed: {hub.errors!r}"
        _write_out(hub)
        # The Hub's port, its token and the folder of the cache differ from run to run.
        varying = {hub.endpoint: "HUB", str(self.home): "HOME", token: "TOKEN"}
        for stream in map(Path, STREAMS):
            data = stream.read_bytes()
            for text, name in varying.items():
                data = data.replace(text.encode(), name.encode())
            stream.write_bytes(data)
        return os.waitstatus_to_exitcode(status)

    def clear(self) -> None:
        """Remove everything but the inputs, for the next command."""
        for path in _outputs(*STREAMS):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        shutil.rmtree(self.home, ignore_errors=True)


@contextlib.contextmanager
def warm_machine(home: Path) -> Iterator[Machine]:
    """Yield a machine that has imported all of loratools, so that no command waits for torch."""
    import loratools

    print(f"loratools of {Path(loratools.__file__).parents[1]}", file=sys.stderr)
    # The first entry of the path, so that all revisions run with the Hub of this revision's tests.
    sys.path.insert(0, str(ROOT))
    from tests.hub.server import running

    with running() as server:
        # Set before the Hub's client is imported, which reads the environment once.
        environment = {**server.fresh(home).environment(home), **SETTINGS}
        environment.pop("LORATOOLS_DEBUG", None)
        os.environ.clear()
        os.environ.update(environment)
        for module in pkgutil.walk_packages(loratools.__path__, "loratools."):
            importlib.import_module(module.name)
        yield Machine(server, home)


def _become(arguments: list[str], token: str) -> NoReturn:
    """Run `loratools ARGUMENTS` in this process, which ends with the command."""
    from loratools.__main__ import main

    os.environ["HF_TOKEN"] = token
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in enumerate(STREAMS, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["loratools", *arguments]
    try:
        main()
    finally:
        os._exit(70)  # main() ends the process; if it fails to, this child must not go on


def _write_out(hub: "Hub") -> None:
    """Write the contents of the Hub's repositories beside the other outputs."""
    for name, repo in hub.repos.items():
        for ref in ("refs/heads/main", "refs/pr/1", "refs/tags/v1"):
            if repo.git.target(ref) is not None:
                for path, data in hub.files(name, ref).items():
                    file = Path("hub", name, ref, path)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(data)


def _contents(folder: Path) -> dict[str, bytes]:
    """The contents of all files in a folder by their relative paths, or of one file by its name."""
    if folder.is_file():
        return {folder.name: folder.read_bytes()}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def _outputs(*streams: str) -> list[Path]:
    """The paths that a command has left in the current folder; of `STREAMS` only `streams`."""
    known = {*INPUTS, *STREAMS} - set(streams)
    return sorted(path for path in Path().iterdir() if path.name not in known)


# --- the table -----------------------------------------------------------------------------------


def line(case: Case, code: int) -> str:
    """The line of the table for a case that has run."""
    streams = [digest([stream] if stream.stat().st_size else []) for stream in map(Path, STREAMS)]
    given = "".join(f"  [{path}]" for path in (case.hosted, case.own) if path)
    return "  ".join([f"{code:3}", digest(_outputs()), *streams, f"{case.command}{given}"])


def digest(paths: Iterable[Path]) -> str:
    """A hash of the names and contents of files and folders; `-` if there are none."""
    found = [file for path in paths for file in (path, *sorted(path.rglob("*")))]
    total = hashlib.sha256()
    for file in found:
        data = file.read_bytes() if file.is_file() else b""
        total.update(f"{file.as_posix()}\0{hashlib.sha256(data).hexdigest()}\0".encode())
    return total.hexdigest()[:16] if found else f"{'-':16}"


def keep(case: Case, folder: Path) -> None:
    """Copy the outputs of a case into a folder named after its command."""
    name = f"loratools {case.command} {case.hosted or case.own or ''}".strip().replace("/", "_")
    (folder / name).mkdir(parents=True)
    for path in _outputs(*STREAMS):
        if path.is_dir():
            shutil.copytree(path, folder / name / path.name)
        else:
            shutil.copy(path, folder / name)


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="a new folder, in which all outputs stay")
    kept: Path | None = parser.parse_args().keep
    kept = kept and kept.resolve()
    with tempfile.TemporaryDirectory() as folder, warm_machine(Path(folder, "home")) as machine:
        work = Path(folder, "work")
        shutil.copytree(ROOT / "fixtures", work / "fixtures")
        os.chdir(work)
        inputs.make(Path("made"), Path("fixtures"))
        tuned = make_tuned(machine)
        before = digest(map(Path, INPUTS))
        for case in all_cases(tuned, all_verbs(machine), all_methods(machine)):
            code = machine.run(case)
            print(line(case, code), flush=True)
            if kept is not None:
                keep(case, kept)
            machine.clear()
        if digest(map(Path, INPUTS)) != before:
            print("an input has changed", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
