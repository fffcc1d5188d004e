"""The state of a Hub, with methods for tests to prepare and inspect it without HTTP."""

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request

from tests.hub.server.accounts import Accounts, Caller, Role
from tests.hub.server.answers import no_repository, no_right, not_signed_in
from tests.hub.server.fault import Fault, Rule
from tests.hub.server.faults import Before
from tests.hub.server.hosted import Gated, Hosted
from tests.hub.server.lfs import ATTRIBUTES
from tests.hub.server.log import Log, Origin
from tests.hub.server.signing import Signer

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
CLEARED = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_OFFLINE")
START = 1_767_225_600  # 2026-01-01 in seconds; each event is one second later


@dataclass
class Settings:
    """The behaviour that differs between Hubs or changes from day to day, for a test to choose."""

    page_size: int = 1000  # entries of a listing in one answer
    part_size: int | None = None  # bytes; uploads larger than this go in parts
    resolve_cache: bool = False  # small files behind one more redirect on the Hub itself
    compress: bool = False  # small files with gzip, without a Content-Length
    xet: bool = False  # uploads by hf_xet: see `xet.py`


@dataclass
class Hub:
    """The state of a Hub for one test: its repositories, accounts, faults and the log."""

    root: Path
    endpoint: str
    storage_endpoint: str
    settings: Settings = field(default_factory=Settings)
    log: Log = field(default_factory=Log)
    accounts: Accounts = field(default_factory=Accounts)
    repos: dict[str, Hosted] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)  # faults of the server itself

    def __post_init__(self) -> None:
        self.signer = Signer()
        self.time = START
        self.lock = threading.RLock()

    # --- what a test prepares -----------------------------------------------------------------

    def user(self, name: str, role: Role = "write", *, organizations: Sequence[str] = ()) -> str:
        """Add a token for a user, who may have several; one for `read` does not allow writing."""
        return self.accounts.add(Caller(name, role, tuple(organizations)))

    def create_repo(
        self,
        id: str,
        files: Mapping[str, bytes] | None = None,
        *,
        private: bool = False,
        gated: Gated = False,
    ) -> str:
        """Make a repository and return its head.

        The first commit has .gitattributes, and a second one has `files`, if there are any.
        """
        repo = Hosted(id, self.root / f"{id}.git", private, gated)
        self.repos[id] = repo
        self.commit(id, {".gitattributes": ATTRIBUTES.encode()}, "initial commit")
        return self.commit(id, files, "Add files") if files else self.head(id)

    def commit(
        self,
        id: str,
        files: Mapping[str, bytes],
        message: str = "A change",
        *,
        branch: str = "main",
        user: str = "someone",
        deleted: Sequence[str] = (),
    ) -> str:
        """Commit as a user, without a check of rights, and return the new head."""
        repo, ref = self.repos[id], f"refs/heads/{branch}"
        with repo.git.lock:
            tip = repo.git.target(ref)
            kept = {} if tip is None else repo.git.files(tip)
            changed = {**kept, **repo.blobs(files, repo.attributes(tip))}
            remaining = {path: oid for path, oid in changed.items() if path not in deleted}
            return repo.git.commit(
                ref, remaining, expected=tip, author=user, message=message, time=self.tick()
            )

    def grant(self, id: str, user: str) -> None:
        """Let a user through a repository's gate."""
        self.repos[id].granted.add(user)

    # --- what a test looks at -----------------------------------------------------------------

    def head(self, id: str, branch: str = "main") -> str:
        """The commit of a branch, a tag or `refs/pr/N`."""
        return self.repos[id].resolve(branch)

    def files(self, id: str, revision: str = "main") -> dict[str, bytes]:
        """The contents of all files of a revision but .gitattributes, by path in git's order."""
        repo = self.repos[id]
        files = repo.files(repo.resolve(revision)).items()
        return {path: repo.content(file) for path, file in files if path != ".gitattributes"}

    def fsck(self, id: str) -> str:
        """The complaints of `git fsck --strict` about a repository; empty if it is sound."""
        command = ["git", "--git-dir", str(self.repos[id].folder), "fsck", "--strict", "--full"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        complaints = [line for line in run.stdout.splitlines() if not line.startswith("dangling")]
        failed = [] if run.returncode == 0 else [f"git ended with {run.returncode}"]
        return "\n".join([*complaints, *run.stderr.splitlines(), *failed])

    # --- what goes wrong ----------------------------------------------------------------------

    def fail(
        self,
        fault: Fault,
        path: str = "",
        *,
        method: str | None = None,
        origin: Origin | None = None,
        skip: int = 0,
        times: int | None = 1,
    ) -> Rule:
        """Make a fault strike requests in whose quoted path the regular expression is found.

        The first `skip` of these requests are spared, and then `times` are struck, or all if it is
        None.
        """
        rule = Rule(fault, path, method, origin, skip, times)
        self.rules.append(rule)
        return rule

    def before(self, path: str, action: Callable[[], object], *, method: str | None = None) -> Rule:
        """Run an action, such as a commit, just before the next such request is handled."""
        return self.fail(Before(action), path, method=method)

    @property
    def nowhere(self) -> str:
        """The URL of an endpoint at which no server listens."""
        with socket.create_server(("127.0.0.1", 0)) as closed:
            return f"http://127.0.0.1:{closed.getsockname()[1]}"

    # --- for the commands of subprocesses -----------------------------------------------------

    def environment(self, home: Path, token: str = "") -> dict[str, str]:
        """The environment variables with which a subprocess uses this Hub as the Hub."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(CLEARED) and name.lower() not in PROXIES
        }
        return {**inherited, **self.variables(home), "HF_TOKEN": token}

    def variables(self, home: Path) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home / "huggingface"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    # --- for the handlers ---------------------------------------------------------------------

    def tick(self) -> int:
        """Advance the clock to the next event, and return its time in seconds since 1970."""
        with self.lock:
            self.time += 1
            return self.time

    def readable(self, request: Request) -> Hosted:
        """The repository in a request's path, if the caller may know that it exists.

        Raises:
            RefusedError: there is no such repository, or it is private.
        """
        caller = self.accounts.caller(request)
        repo = self.repos.get(repo_id(request))
        if repo is None or not repo.shown_to(caller):
            raise not_signed_in() if caller is None else no_repository()
        return repo

    def proposable(self, request: Request) -> tuple[Hosted, Caller]:
        """The repository and the caller, if the caller may propose changes to it.

        Raises:
            RefusedError: as for `readable`, or there is no token or only one for reading.
        """
        repo, caller = self.readable(request), self.accounts.caller(request)
        if caller is None:
            raise not_signed_in()
        if caller.role != "write":
            raise no_right()
        return repo, caller

    def writable(self, request: Request) -> tuple[Hosted, Caller]:
        """The repository and the caller, if the caller may write to it.

        Raises:
            RefusedError: as for `proposable`, or the repository belongs to somebody else.
        """
        repo, caller = self.proposable(request)
        if not caller.is_in(repo.namespace):
            raise no_right()
        return repo, caller


def repo_id(request: Request) -> str:
    return "{namespace}/{name}".format(**request.path_params)
