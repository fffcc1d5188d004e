"""Hash files, and send those that have changed as one commit."""

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import TYPE_CHECKING

from loratools.errors import HubError
from loratools.hub.names import HubName
from loratools.io.file import InputFile
from loratools.publishing.publishable import Publishable
from loratools.publishing.push_options import PushOptions
from loratools.publishing.push_report import PushReport
from loratools.running.work import Work
from loratools.typed import flag

if TYPE_CHECKING:
    from loratools.hub.commits import Push
    from loratools.hub.writing import Addition


def begin_hashing(
    files: Mapping[str, InputFile | bytes], work: Work
) -> "Callable[[], dict[str, Addition]]":
    """Hash files by `work`; returns a function that waits for the results."""
    from loratools.hub.writing import Addition

    futures = {
        # Copies, which have descriptors of their own: files are read here meanwhile.
        name: work.begin(Addition.of, name, copy(content), partial(work.note, name))
        for name, content in files.items()
    }
    return lambda: {name: work.result(future) for name, future in futures.items()}


def parent_of(name: HubName, options: PushOptions) -> str | None:
    """The head of the branch, which is made if missing.

    None in a dry run that would make the repository.
    """
    from loratools.hub import reading, writing

    branch = HubName(name.repo, options.branch)
    if options.create and not options.dry_run:
        writing.create(name.repo, private=options.private)
    try:
        return reading.head(branch)
    except HubError as error:
        if options.dry_run and options.create:
            return None
        if not reading.exists(name.repo):
            raise HubError(error.complaint, hint=f"{flag('create')} makes one") from None
    if options.dry_run:
        return reading.head(name)  # from which the branch would be made
    writing.branch(name.repo, options.branch)
    return reading.head(branch)


def send(
    name: HubName,
    parent: str | None,
    files: "Mapping[str, Addition]",
    contents: Publishable,
    options: PushOptions,
    work: Work,
) -> PushReport:
    """Send the files that `parent` lacks as one commit on top of it; in a dry run, say which.

    Raises:
        HubError, NetworkError: see `Push.send`; or the tag is that of another commit.
    """
    from loratools.hub import writing
    from loratools.hub.commits import Push, Pushed

    if parent is None:
        pushed, commit = Pushed("", tuple(sorted(files))), None
    else:
        what = "a model" if contents.is_model else "an adapter"
        message = options.message or f"Push {what} with loratools"
        push = Push(name.repo, options.branch, parent, files, message, options.proposes)
        if options.tag is not None:
            _check_tag(push, options.tag)
        pushed = Pushed(parent, push.changed()) if options.dry_run else push.send(work)
        commit = pushed.commit
    if options.dry_run or not pushed.changed:
        work.end()
    if options.tag is not None and commit is not None and not options.dry_run:
        writing.tag(name.repo, options.tag, commit)
    return PushReport(
        repo=name.repo,
        commit=commit,
        changed=pushed.changed,
        files=tuple(sorted(files)),
        left_out=contents.left_out,
        proposal=pushed.proposal,
        tag=options.tag,
        dry_run=options.dry_run,
    )


def _check_tag(push: "Push", tag: str) -> None:
    """Refuse a tag that would have to move, before anything is sent."""
    from loratools.hub import reading

    commit = reading.tags(push.repo).get(tag)
    if commit is not None and (commit != push.parent or push.changed()):
        raise HubError(f"hf://{push.repo}: the tag {tag} is there already, at {commit[:12]}")
