"""Send files as one commit: made once, even where the Hub's answer is lost, or not at all."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from loratools.errors import ConflictError, HubError, NetworkError, UnansweredError, listing
from loratools.hub import reading, writing
from loratools.hub.names import HubName
from loratools.hub.writing import Addition
from loratools.running.work import Work

_ATTEMPTS = 4


@final
@dataclass(frozen=True)
class Pushed:
    """The result of a push: the commit that has the files, and the paths that it changed.

    `changed` is empty where the parent had all files; then no commit is made. `proposal` is the
    number of the pull request, where one was asked for.
    """

    commit: str
    changed: tuple[str, ...]
    proposal: int | None = None


@final
@dataclass(frozen=True)
class Push:
    """One commit to make on top of `parent`: files by their paths in the repository."""

    repo: str
    branch: str
    parent: str
    files: Mapping[str, Addition]
    message: str
    proposes: bool = False

    def changed(self) -> tuple[str, ...]:
        """The paths, sorted, of files that the parent lacks or has with other bytes.

        Raises:
            HubError, NetworkError: the parent cannot be listed.
        """
        there = {file.path: file for file in reading.list_files(self.repo, self.parent)}
        return tuple(sorted(p for p, f in self.files.items() if not f.is_listed(there.get(p))))

    def send(self, work: Work) -> Pushed:
        """Commit the files that have changed; `work` tells how far it is.

        Raises:
            HubError: it may not be written, or somebody else has committed meanwhile.
            NetworkError: the Hub cannot be reached, and no commit was made.
        """
        changed = self.changed()
        for path in self.files.keys() - changed:
            work.complete(path)
        if not changed:
            return Pushed(self.parent, ())
        before = self._proposals()  # to tell a new one by, if an answer is lost
        for attempt in range(_ATTEMPTS):
            made = self._attempt(changed, before, work, is_last=attempt == _ATTEMPTS - 1)
            if made is not None:
                return made
            time.sleep(2.0**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(
        self, changed: tuple[str, ...], before: Mapping[int, str], work: Work, *, is_last: bool
    ) -> Pushed | None:
        """Order the commit; None where the answer was lost and no commit was made.

        Trying again is safe: each order names its parent, which the Hub compares with the head.
        """
        repo, branch, parent = self.repo, self.branch, self.parent
        sent = [self.files[path] for path in changed]
        try:
            commit, proposal = writing.commit(
                repo, branch, parent, sent, self.message, work, proposes=self.proposes
            )
        except ConflictError:
            # It may be an earlier attempt of this push that moved the head, late.
            settled = self._settled(changed, before)
            if settled is None:
                raise
            return settled
        except UnansweredError as error:
            settled = self._settled(changed, before)
            if settled is None and is_last:
                what = f"{error.complaint}, and no commit was made"
                raise NetworkError(what, hint=error.hint) from None
            return settled
        self._check(commit, changed)
        return Pushed(commit, changed, proposal)

    def _settled(self, changed: tuple[str, ...], before: Mapping[int, str]) -> Pushed | None:
        """Find the commit that an attempt without an answer made; None where it made none.

        Raises:
            HubError: somebody else has committed to the branch.
        """
        if self.proposes:
            after = self._proposals()
            for number in sorted(after.keys() - before.keys()):
                commit = self._next(after[number])
                if commit is not None and self._is_ours(commit, changed):
                    return Pushed(commit, changed, number)
            return None
        head = reading.head(HubName(self.repo, self.branch))
        if head == self.parent:
            return None
        commit = self._next(head)
        if commit is not None and self._is_ours(commit, changed):
            return Pushed(commit, changed)
        raise self._overtaken(head)

    def _next(self, head: str) -> str | None:
        """The commit made directly on the parent; `head` may be a later one, made by others."""
        history = reading.history(self.repo, head)
        later = history[: history.index(self.parent)] if self.parent in history else []
        return later[-1] if later else None

    def _is_ours(self, commit: str, changed: tuple[str, ...]) -> bool:
        """Whether a commit is ours, by the files in it: the answer with its hash was lost."""
        there = {file.path: file for file in reading.list_files(self.repo, commit)}
        return all(self.files[path].is_listed(there.get(path)) for path in changed)

    def _proposals(self) -> dict[int, str]:
        """The heads of pull requests by their numbers; not asked for if none is to be made."""
        return reading.proposals(self.repo) if self.proposes else {}

    def _check(self, commit: str, changed: tuple[str, ...]) -> None:
        """Compare the Hub's listing of the new commit with what was sent."""
        there = {file.path: file for file in reading.list_files(self.repo, commit)}
        wrong = [path for path in changed if not self.files[path].is_listed(there.get(path))]
        if wrong:
            raise HubError(
                f"{HubName(self.repo, commit)}: the commit was made, and lists other bytes for "
                f"{listing(wrong)}"
            )

    def _overtaken(self, head: str) -> HubError:
        return HubError(
            f"{HubName(self.repo)}: somebody has committed {head[:12]} to {self.branch} meanwhile",
            hint="look at it, and push again",
        )
