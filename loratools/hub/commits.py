"""Files made into one commit: once, whatever becomes of the answer, or not at all."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from loratools.errors import ConflictError, HubError, NetworkError, UnansweredError, listing
from loratools.hub import reading, writing
from loratools.hub.names import HubName
from loratools.hub.writing import Addition

_ATTEMPTS = 4


@final
@dataclass(frozen=True)
class Pushed:
    """What a push came to: the commit that has the files, and those that it changed.

    `changed` is empty where the parent had them all; then there is no new commit. `proposal` is
    the number of the pull request, where one was asked for.
    """

    commit: str
    changed: tuple[str, ...]
    proposal: int | None = None


@final
@dataclass(frozen=True)
class Push:
    """One commit to be made: files by their paths in the repository, on top of `parent`."""

    repo: str
    branch: str
    parent: str
    files: Mapping[str, Addition]
    message: str
    proposes: bool = False

    def changed(self) -> tuple[str, ...]:
        """The paths that the parent does not have with these bytes, sorted.

        Raises:
            HubError, NetworkError: the parent cannot be listed.
        """
        there = {file.path: file for file in reading.list_files(self.repo, self.parent)}
        return tuple(sorted(p for p, f in self.files.items() if not f.is_listed(there.get(p))))

    def send(self) -> Pushed:
        """Commit what has changed.

        Raises:
            HubError: it may not be written, or somebody else has committed meanwhile.
            NetworkError: the Hub cannot be reached, and no commit was made.
        """
        changed = self.changed()
        if not changed:
            return Pushed(self.parent, ())
        before = self._proposals()
        for attempt in range(_ATTEMPTS):
            made = self._attempt(changed, before, is_last=attempt == _ATTEMPTS - 1)
            if made is not None:
                return made
            time.sleep(2.0**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(
        self, changed: tuple[str, ...], before: Mapping[int, str], *, is_last: bool
    ) -> Pushed | None:
        """The commit; None where none was made for want of an answer."""
        sent = [self.files[path] for path in changed]
        try:
            commit, proposal = writing.commit(
                self.repo, self.branch, self.parent, sent, self.message, proposes=self.proposes
            )
        except ConflictError:
            # An earlier attempt of this push may have landed late.
            settled = self._settled(changed, before)
            if settled is None:
                raise
            return settled
        except UnansweredError as error:
            settled = self._settled(changed, before)
            if settled is None and is_last:
                raise NetworkError(f"{error}; no commit was made") from None
            return settled
        self._check(commit, changed)
        return Pushed(commit, changed, proposal)

    def _settled(self, changed: tuple[str, ...], before: Mapping[int, str]) -> Pushed | None:
        """What an attempt without an answer has done: its commit; None where it made none."""
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
        """The commit on top of the parent: others may have committed on top of that again."""
        history = reading.history(self.repo, head)
        later = history[: history.index(self.parent)] if self.parent in history else []
        return later[-1] if later else None

    def _is_ours(self, commit: str, changed: tuple[str, ...]) -> bool:
        there = {file.path: file for file in reading.list_files(self.repo, commit)}
        return all(self.files[path].is_listed(there.get(path)) for path in changed)

    def _proposals(self) -> dict[int, str]:
        return reading.proposals(self.repo) if self.proposes else {}

    def _check(self, commit: str, changed: tuple[str, ...]) -> None:
        """Hold what the Hub now lists against what was sent."""
        there = {file.path: file for file in reading.list_files(self.repo, commit)}
        wrong = [path for path in changed if not self.files[path].is_listed(there.get(path))]
        if wrong:
            raise HubError(
                f"{HubName(self.repo, commit)}: the commit was made, and lists other bytes for "
                f"{listing(wrong)}"
            )

    def _overtaken(self, head: str) -> HubError:
        return HubError(
            f"{HubName(self.repo)}: somebody has committed {head[:12]} to {self.branch} "
            f"meanwhile; look at it, and push again"
        )
