"""What a push has sent, or would send."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

from loratools.errors import counted, listing
from loratools.hub.names import HubName
from loratools.showing.parts import Part, aside
from loratools.showing.shown import Shown


@final
@dataclass(frozen=True, repr=False)
class PushReport(Shown):
    """The result of a push.

    Attributes:
        repo: the repository: `owner/name`.
        commit: the commit; None after a dry run of a push to a repository that does not exist.
        changed: the names of the files that were sent, or would be.
        files: the names of all files.
        left_out: the names of files in the folder that are not sent.
        proposal: the number of the pull request; None without one.
        tag: the tag of the commit; None without one.
        dry_run: whether nothing was sent.
    """

    repo: str
    commit: str | None
    changed: tuple[str, ...]
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    proposal: int | None
    tag: str | None
    dry_run: bool

    def shown(self, *, verbose: bool = False) -> Iterator[Part]:
        """What was sent, or would be, and where it is."""
        where = f"hf://{self.repo}" if self.commit is None else str(HubName(self.repo, self.commit))
        if not self.changed:
            yield f"nothing to change: {where} has the same {counted(len(self.files), 'file')}"
        else:
            verb = "would send" if self.dry_run else "sent"
            yield f"{verb}: {listing(self.changed, 12)}"
            if not self.dry_run:
                yield f"commit: {where}"
        if self.proposal is not None:
            yield f"pull request: {self.proposal}"
        if self.tag is not None and not self.dry_run:
            yield f"tag: {self.tag}"
        if self.left_out:
            yield aside("Note", f"not sent: {listing(self.left_out)}")

    def to_json(self) -> dict[str, Any]:
        """The documented object of `push --json`."""
        return {
            "name": None if self.commit is None else str(HubName(self.repo, self.commit)),
            "commit": self.commit,
            "changed": list(self.changed),
            "files": list(self.files),
            "left_out": list(self.left_out),
            "proposal": self.proposal,
            "tag": self.tag,
            "dry_run": self.dry_run,
        }
