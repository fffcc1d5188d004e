"""Publish an adapter or a merged model on the Hub: checked, described, and as one commit."""

import os
import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from loratools.adapter import Adapter
from loratools.arguments import checked
from loratools.errors import FormatError, HubError, LoratoolsError, OptionError, UnsupportedError
from loratools.files.opening import AdapterLike
from loratools.formats import dialect_of
from loratools.hub.names import HubName, is_hub_name
from loratools.io.failures import path_errors
from loratools.io.file import InputFile
from loratools.io.missing import refuse_missing
from loratools.keywords import with_keywords
from loratools.publishing.publishable import publishable
from loratools.publishing.push_options import PushOptions
from loratools.publishing.push_report import PushReport
from loratools.publishing.sending import begin_hashing, parent_of, send
from loratools.publishing.written import CARD, card_at, completed, facts_for, text_of, with_base
from loratools.running.progress import Progress, shows_progress
from loratools.running.work import working
from loratools.typed import as_typed, flag, valued


@shows_progress("B")
@checked
def push(
    folder: AdapterLike,
    repo: str,
    options: PushOptions | None = None,
    *,
    private: bool | None = None,
    create: bool | None = None,
    message: str | None = None,
    base: str | None = None,
    dry_run: bool | None = None,
    progress: Progress = None,
) -> PushReport:
    """Send an adapter's or a model's files to `owner/name` on the Hub, as one commit.

    Only files that differ from the branch's head are sent, and no commit is made if none does.
    Another commit to the branch in the meantime is an error, and is never overwritten. A model card
    is written, or the existing one completed.

    Args:
        folder: the folder of an adapter or of a merged model; or an opened adapter, which is
            written to a folder for temporary files first.
        repo: the name of the repository: `owner/name`.
        options: the choices below and more, as one object.
        private: only its owners see a repository that is made.
        create: make the repository if there is none.
        message: the commit's message.
        base: the base to name in the pushed config: `owner/name`.
        dry_run: check and report, but write nothing.
        progress: called with the bytes done and the bytes in all, which are twice those of the
            files: they are read for their hashes, and then sent; True shows a bar on stderr. What
            it raises stops the push, and no commit is made.

    Example:
        >>> import loratools
        >>> report = loratools.push("small", "owner/name", create=True)  # doctest: +SKIP
        >>> report.changed  # doctest: +SKIP
        ('README.md', 'adapter_config.json', 'adapter_model.safetensors')

    Raises:
        FormatError, UnsupportedError, NonFiniteError: it is not fit to be published.
        HubError: it may not be written, or somebody else has committed meanwhile.
        NetworkError: the Hub cannot be reached; no commit was made.
    """
    options = with_keywords(
        options or PushOptions(),
        private=private,
        create=create,
        message=message,
        base=base,
        dry_run=dry_run,
    )
    if not isinstance(folder, Adapter):
        return _push(folder, repo, options, progress)
    with TemporaryDirectory(prefix="loratools-") as place:
        weights = dialect_of(folder).weights
        files = Path(place) / "adapter" if weights else Path(place)
        try:
            folder.save(files if weights else files / "adapter.safetensors")
            return _push(files, repo, options, progress)
        except LoratoolsError as error:  # the user knows nothing of that folder
            error.renames(re.compile(re.escape(str(files))), folder.where)
            raise


def _push(folder: str | Path, repo: str, options: PushOptions, progress: Progress) -> PushReport:
    if not os.path.lexists(folder) and os.path.lexists(repo):
        raise FormatError(
            f"{folder}: no such folder", hint="the folder comes first, and then OWNER/NAME"
        )
    name = HubName.parse(repo)
    if name.path or name.revision:
        raise HubError(
            f"{repo}: not of the form owner/name", hint=f"a branch is given by {valued('branch')}"
        )
    if is_hub_name(folder):
        raise UnsupportedError(f"{folder}: not a folder here", hint="pull it first")
    if options.base is not None and is_hub_name(options.base):
        options = replace(options, base=HubName.parse(options.base).repo)
    if options.proposes and (options.tag or options.branch != "main"):
        raise OptionError(
            "a pull request is made for main, and has no tag",
            hint=f"leave {as_typed('branch')} and {as_typed('tag')} out",
        )
    if options.private and not options.create:
        raise OptionError(
            f"{as_typed('private')} is for a repository that is made",
            hint=f"give {flag('create')} too, or leave it out",
        )
    template = None if options.template is None else text_of(InputFile(Path(options.template)))
    from loratools.publishing.card.reports import read_steps

    steps = read_steps(options.reports)
    with path_errors(folder, FormatError):
        refuse_missing(folder)
        contents = publishable(Path(folder), all_files=options.all_files, variant=options.variant)
    # Twice, since a file is read to be hashed, and then to be sent.
    sizes = {name: 2 * file.size for name, file in contents.files.items()}
    with working(sizes, progress) as work:
        additions = begin_hashing(contents.files, work)
        found = contents.checked(options.base, work.tell)
        written: dict[str, bytes] = {}
        if options.base is not None:
            written |= with_base(contents.files, found, options.base)
        parent = parent_of(name, options)
        if options.card:
            facts = facts_for(name.repo, found, steps, options)
            card = contents.files.get(CARD) or card_at(name.repo, parent)
            written[CARD] = completed(card, facts, template, str(options.template)).encode()
        files = {**additions(), **begin_hashing(written, work)()}
        return send(name, parent, files, contents, options, work)
