"""What the Hub is told to do: repositories, branches, tags and commits."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from huggingface_hub import CommitOperationAdd

from loratools.errors import HubError, NetworkError, shorten, storage_errors
from loratools.hub import client, reading
from loratools.hub.client import asked
from loratools.hub.names import HubFile, HubName, is_commit
from loratools.hub.session import AnswerError
from loratools.hub.token import quoted
from loratools.hub.verified import git_sha1
from loratools.io.file import InputFile

#: A file up to this size is held in memory until it is sent.
_SMALL_BYTES = 2**20


@final
@dataclass(frozen=True)
class Addition:
    """A file to be sent: hashed once, and not uploaded twice where a commit is tried again."""

    content: InputFile | bytes
    operation: CommitOperationAdd

    @classmethod
    def of(cls, name: str, content: InputFile | bytes) -> "Addition":
        """A file, or some bytes, with the name that they will have in the repository.

        The client opens a file again by its name, at which something else may lie by then. So it is
        given the bytes of a small one, and of another one the name of what is open.

        Raises:
            StorageError: it cannot be read, or was written to meanwhile.
        """
        if isinstance(content, InputFile) and content.size <= _SMALL_BYTES:
            small = content.read(0, content.size)
            content.close()
            content = small
        if isinstance(content, bytes):
            return cls(content, CommitOperationAdd(name, content))
        with storage_errors(content.where):
            operation = CommitOperationAdd(name, str(content.open_path))
            _ = operation.upload_info.sha256  # which the client would compute when it sends it
            content.check_unchanged()
        return cls(content, operation)

    def is_listed(self, there: HubFile | None) -> bool:
        """Whether the Hub lists it with these bytes."""
        if there is None or there.size != self.operation.upload_info.size:
            return False
        if there.is_large:
            sha256: str = self.operation.upload_info.sha256.hex()
            return there.digest == sha256
        content = self.content
        return there.digest == git_sha1(
            content if isinstance(content, bytes) else content.open_path
        )


def commit(
    repo: str,
    branch: str,
    parent: str,
    files: Iterable[Addition],
    message: str,
    *,
    proposes: bool,
) -> tuple[str, int | None]:
    """Make one commit of `files`: its hash, and the number of the pull request that it is in.

    Raises:
        UnansweredError: the connection broke, or the Hub did; look before trying again.
        ConflictError: the head of the branch is not the parent any more.
        HubError: it may not be written, or the Hub refuses a file.
    """
    where = HubName(repo)
    try:
        with client.hub_errors(where), _card_refusal(where):
            hub, operations = client.api(), [file.operation for file in files]
            made = hub.create_commit(
                repo,
                operations,
                commit_message=message,
                revision=branch,
                parent_commit=parent,
                create_pr=proposes,
            )
    except (NetworkError, AnswerError) as error:
        raise client.UnansweredError(str(error)) from None
    if not isinstance(made.oid, str) or not is_commit(made.oid):
        raise client.UnansweredError(f"{where}: {shorten(repr(made.oid))} in place of a commit")
    return made.oid, made.pr_num


@contextmanager
def _card_refusal(where: HubName) -> Iterator[None]:
    """What the Hub says against the metadata in README.md; what it would rather have is its own."""
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
        HubError: there is one that everybody sees, and it should be private.
        NetworkError: see `hub_errors`.
    """
    where = HubName(repo)
    asked(where, lambda hub: hub.create_repo(repo, private=private, exist_ok=True))
    if private and not reading.is_private(repo):
        raise HubError(f"{where}: is there already, and public; leave out --private to push to it")


def branch(repo: str, name: str) -> None:
    """Make a branch at the head of the default one, if there is none of that name.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """
    asked(HubName(repo), lambda hub: hub.create_branch(repo, branch=name, exist_ok=True))


def tag(repo: str, name: str, commit: str) -> None:
    """Give a commit a tag, which it may have already.

    Raises:
        HubError: another commit has it.
        NetworkError: see `hub_errors`.
    """
    where = HubName(repo)
    asked(where, lambda hub: hub.create_tag(repo, tag=name, revision=commit, exist_ok=True))
    if reading.tags(repo).get(name) != commit:
        raise HubError(f"{where}: the tag {shorten(name)} is that of another commit")
