"""Every order to the Hub as one function: repositories, branches, tags and commits."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import final

from loratools.errors import AnswerError, HubError, NetworkError, UnansweredError, shorten
from loratools.hub import client, reading
from loratools.hub.client import asked
from loratools.hub.names import HubFile, HubName, is_commit
from loratools.hub.sending import Sending
from loratools.hub.token import quoted
from loratools.hub.verified import git_sha1
from loratools.hub.xet import Told, telling
from loratools.io.failures import storage_errors
from loratools.io.file import InputFile
from loratools.running.work import Work
from loratools.typed import as_typed

#: A file up to this size is held in memory until it is sent.
_SMALL_BYTES = 2**20
#: How many larger files are open at once; the client may open each of them a second time.
_OPEN_AT_ONCE = 32


@final
@dataclass(frozen=True)
class Addition:
    """A file to send: hashed once, and not uploaded again where a commit is tried again."""

    content: InputFile | bytes
    operation: Sending

    @classmethod
    def of(cls, name: str, content: InputFile | bytes, told: Told) -> "Addition":
        """Prepare a file or bytes to be sent as `name`, their path in the repository.

        `told` is called with the bytes of a large file that are done, of twice its size: it is read
        for its hash, and then to be sent.

        The client opens a file by its name when it sends it, and another one may be there by then.
        So it is given the bytes of a small file, and a path of our open descriptor for a large one.

        Raises:
            StorageError: it cannot be read, or was written to meanwhile.
        """
        if isinstance(content, InputFile) and content.size <= _SMALL_BYTES:
            content = content.read(0, content.size)
        if isinstance(content, bytes):
            return cls(content, Sending(name, content, told))
        size = content.size
        with storage_errors(content.where), content.named() as path:
            operation = Sending(name, path, lambda done: told(size + done))
        # Else the client would hash what is at the path.
        operation.upload_info.sha256 = bytes.fromhex(content.sha256(told))
        return cls(content, operation)

    @property
    def is_unsent(self) -> bool:
        """Whether this is a large file whose content the client has not sent yet."""
        # The client puts empty bytes in the place of what it has sent (`free_memory`).
        return not isinstance(self.operation.path_or_fileobj, bytes)

    @contextmanager
    def named(self) -> Iterator[Sending]:
        """The operation, with a path of the open file that is valid in the block.

        A file that was not sent in the block belongs in the commit itself, where the Hub wants
        text files: its bytes are then put into the operation.

        Raises:
            FormatError, StorageError: another file has taken its place, or a link leads to it.
        """
        assert isinstance(self.content, InputFile)
        with self.content.named() as path:
            self.operation.path_or_fileobj = str(path)
            yield self.operation
            if self.is_unsent:
                self.operation.path_or_fileobj = self.content.read(0, self.content.size)

    def is_listed(self, there: HubFile | None) -> bool:
        """Whether the Hub's entry `there` has the size and the hash of this file."""
        if there is None or there.size != self.operation.upload_info.size:
            return False
        if there.is_large:
            sha256: str = self.operation.upload_info.sha256.hex()
            return there.digest == sha256
        if isinstance(self.content, bytes):
            return there.digest == git_sha1(self.content)
        with self.content.named() as path:
            return there.digest == git_sha1(path)


def commit(
    repo: str,
    branch: str,
    parent: str,
    files: Iterable[Addition],
    message: str,
    work: Work,
    *,
    proposes: bool,
) -> tuple[str, int | None]:
    """Make one commit of `files`: its hash, and the number of the pull request that it is in.

    `work` tells how far it is, for the last time before the commit: what its callback raises means
    that none was made.

    Raises:
        UnansweredError: no usable answer came; look for the commit before trying again.
        ConflictError: the head of the branch is not the parent any more.
        HubError: it may not be written, or the Hub refuses a file.
    """
    where, files = HubName(repo), list(files)
    large = [file for file in files if file.is_unsent]
    try:
        for begin in range(0, len(large), _OPEN_AT_ONCE):
            batch = large[begin : begin + _OPEN_AT_ONCE]
            work.result(work.begin(partial(_upload, repo, branch, batch, proposes=proposes)))
        work.end()
        with client.hub_errors(where), _card_refusal(where):
            made = client.api().create_commit(
                repo,
                [file.operation for file in files],
                commit_message=message,
                revision=branch,
                parent_commit=parent,
                create_pr=proposes,
            )
    except (NetworkError, AnswerError) as error:
        raise UnansweredError(error.complaint, file=error.file, hint=error.hint) from None
    if not isinstance(made.oid, str) or not is_commit(made.oid):
        raise UnansweredError(f"{where}: {shorten(repr(made.oid))} in place of a commit")
    return made.oid, made.pr_num


def _upload(repo: str, branch: str, files: Sequence[Addition], *, proposes: bool) -> None:
    """Send the contents of some large files, before the commit that lists them.

    Each is open while it is sent: see `Addition.of`.
    """
    with client.hub_errors(HubName(repo)), ExitStack() as opened:
        operations = [opened.enter_context(file.named()) for file in files]
        with telling({str(one.path_or_fileobj): one.told for one in operations}):
            client.api().preupload_lfs_files(
                repo, operations, revision=branch, create_pr=proposes, free_memory=True
            )


@contextmanager
def _card_refusal(where: HubName) -> Iterator[None]:
    """Turn the Hub's errors about README.md's metadata into HubErrors; ignore its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ValueError as error:
        if "README.md" not in str(error):
            raise
        raise HubError(f"{where}: {quoted(str(error))}") from None


def create(repo: str, *, private: bool) -> None:
    """Make a repository, if there is none of that name.

    Raises:
        HubError: there is a public one of that name, and `private` was asked for.
        NetworkError: see `hub_errors`.
    """
    where = HubName(repo)
    asked(where, lambda hub: hub.create_repo(repo, private=private, exist_ok=True))
    if private and not reading.is_private(repo):
        raise HubError(
            f"{where}: is there already, and public",
            hint=f"leave {as_typed('private')} out to push to it",
        )


def branch(repo: str, name: str) -> None:
    """Make a branch at the head of the default one, if there is none of that name.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """
    asked(HubName(repo), lambda hub: hub.create_branch(repo, branch=name, exist_ok=True))


def tag(repo: str, name: str, commit: str) -> None:
    """Give a commit a tag, if it does not have it already.

    Raises:
        HubError: another commit has this tag.
        NetworkError: see `hub_errors`.
    """
    where = HubName(repo)
    asked(where, lambda hub: hub.create_tag(repo, tag=name, revision=commit, exist_ok=True))
    if reading.tags(repo).get(name) != commit:
        raise HubError(f"{where}: the tag {shorten(name)} is that of another commit")
