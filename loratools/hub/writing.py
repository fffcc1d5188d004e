"""What the Hub is told to do: repositories, branches, tags and commits."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from huggingface_hub import CommitOperationAdd

from loratools.errors import HubError, NetworkError, shorten
from loratools.hub import client
from loratools.hub.client import asked
from loratools.hub.names import HubName


@final
@dataclass(frozen=True)
class Committed:
    """A commit, the pull request that it is in, and the SHA-256 of what it was made of."""

    commit: str
    proposal: int | None
    digests: Mapping[str, str]


def commit(
    repo: str,
    branch: str,
    parent: str,
    files: Mapping[str, Path],
    message: str,
    *,
    proposes: bool,
) -> Committed:
    """Make one commit of `files`.

    Raises:
        UnansweredError: the connection broke, or the Hub did; look before trying again.
        ConflictError: the head of the branch is not the parent any more.
        HubError: it may not be written, or the Hub refuses a file.
    """
    where = HubName(repo)
    operations = [CommitOperationAdd(path, str(file)) for path, file in sorted(files.items())]
    try:
        with client.hub_errors(where), _card_refusal(where):
            made = client.api().create_commit(
                repo,
                operations,
                commit_message=message,
                revision=branch,
                parent_commit=parent,
                create_pr=proposes,
            )
            number = None if made.pr_num is None else int(made.pr_num)
    except NetworkError as error:
        raise client.UnansweredError(str(error)) from None
    digests = {each.path_in_repo: each.upload_info.sha256.hex() for each in operations}
    return Committed(made.oid, number, digests)


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
        raise HubError(f"{where}: {client.quoted(str(error))}") from None


def create(repo: str, *, private: bool) -> None:
    """Make a repository, if there is none of that name.

    Raises:
        HubError, NetworkError: see `hub_errors`.
    """
    asked(HubName(repo), lambda hub: hub.create_repo(repo, private=private, exist_ok=True))


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
    refs = asked(where, lambda hub: hub.list_repo_refs(repo))
    if {ref.name: ref.target_commit for ref in refs.tags}.get(name) != commit:
        raise HubError(f"{where}: the tag {shorten(name)} is that of another commit")
