"""Publish an adapter or a merged model on the Hub: checked, described, and as one commit."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, final

from loratools.adapter import Adapter
from loratools.arguments import checked, checked_fields
from loratools.errors import (
    FormatError,
    HubError,
    LoratoolsError,
    OptionError,
    UnsupportedError,
    counted,
    listing,
    path_errors,
)
from loratools.files.opening import AdapterLike
from loratools.formats import dialect_named, dialect_of
from loratools.hub.names import HubName, is_hub_name
from loratools.io.checkpoint import Checkpoint
from loratools.io.file import InputFile
from loratools.io.folder import read_json
from loratools.io.json import encode_json
from loratools.io.missing import refuse_missing
from loratools.keywords import with_keywords
from loratools.publishing.publishable import Publishable, publishable
from loratools.showing.parts import Part, aside
from loratools.showing.shown import Brief, Shown
from loratools.typed import as_typed, flag

if TYPE_CHECKING:
    from loratools.describing.description import Inspection
    from loratools.hub.commits import Push
    from loratools.hub.writing import Addition
    from loratools.publishing.card.facts import CardFacts
    from loratools.publishing.card.reports import Step

_CARD = "README.md"
_MAX_TEXT_BYTES = 10_000_000


@checked_fields
@final
@dataclass(frozen=True, repr=False)
class PushOptions(Brief):
    """What to send, and where to.

    Attributes:
        branch: commit to this branch, which is made if there is none.
        create: make the repository if there is none.
        private: only its owners see a repository that is made.
        proposes: open a pull request for main instead.
        tag: give the commit a tag: its name.
        message: the commit's message.
        base: the base to name in the pushed config: `owner/name`.
        license: the license, such as `apache-2.0` or `mit`, for the card.
        reports: what a command printed with --json, for the card; the oldest first. JSON objects,
            or the paths of files with one.
        template: a Jinja2 template for the card's section: its path.
        card: whether to write or complete a model card.
        all_files: send the other files of the folder too, which belong to no adapter or model.
        variant: read the weights of a model from its files `model.NAME.safetensors`, such as
            `"fp16"`; `"none"`: from those without a name.
        dry_run: check and report, but write nothing.

    Example:
        >>> import loratools
        >>> options = loratools.PushOptions(branch="experiments", license="mit", dry_run=True)
    """

    branch: str = "main"
    create: bool = False
    private: bool = False
    proposes: bool = False
    tag: str | None = None
    message: str | None = None
    base: str | None = None
    license: str | None = None
    reports: Sequence[Mapping[str, Any] | str | Path] = ()
    template: str | Path | None = None
    card: bool = True
    all_files: bool = False
    variant: str | None = None
    dry_run: bool = False


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
        return _push(folder, repo, options)
    with TemporaryDirectory(prefix="loratools-") as place:
        weights = dialect_of(folder).weights
        files = Path(place) / "adapter" if weights else Path(place)
        try:
            folder.save(files if weights else files / "adapter.safetensors")
            return _push(files, repo, options)
        except LoratoolsError as error:  # the user knows nothing of that folder
            error.renames(re.compile(re.escape(str(files))), folder.where)
            raise


def _push(folder: str | Path, repo: str, options: PushOptions) -> PushReport:
    if not os.path.lexists(folder) and os.path.lexists(repo):
        raise FormatError(
            f"{folder}: no such folder", hint="the folder comes first, and then OWNER/NAME"
        )
    name = HubName.parse(repo)
    if name.path or name.revision:
        raise HubError(f"{repo}: not of the form owner/name", hint="a branch is given by --branch")
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
    template = None if options.template is None else _text(InputFile(Path(options.template)))
    from loratools.publishing.card.reports import read_steps

    steps = read_steps(options.reports)
    with path_errors(folder, FormatError):
        refuse_missing(folder)
        contents = publishable(Path(folder), all_files=options.all_files, variant=options.variant)
    with _hashing(contents.files) as additions:
        found = contents.checked(options.base)
        written: dict[str, bytes] = {}
        if options.base is not None:
            written |= _with_base(contents.files, found, options.base)
        parent = _parent(name, options)
        if options.card:
            facts = _facts(name.repo, found, steps, options)
            card = contents.files.get(_CARD) or _card_of(name.repo, parent)
            written[_CARD] = _completed(card, facts, template, str(options.template)).encode()
        with _hashing(written) as more:
            files = {**additions(), **more()}
        return _send(name, parent, files, contents, options)


@contextmanager
def _hashing(
    files: Mapping[str, InputFile | bytes],
) -> "Iterator[Callable[[], dict[str, Addition]]]":
    """Hash files in a thread during the block, which gets a function that waits for the results."""
    from loratools.hub.writing import Addition

    pool = ThreadPoolExecutor(1)
    try:
        # Copies, which have descriptors of their own: files are read here meanwhile.
        futures = {n: pool.submit(Addition.of, n, copy(content)) for n, content in files.items()}
        yield lambda: {name: future.result() for name, future in futures.items()}
    finally:
        pool.shutdown(cancel_futures=True)


def _parent(name: HubName, options: PushOptions) -> str | None:
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
            raise HubError(error.complaint, hint="--create makes one") from None
    if options.dry_run:
        return reading.head(name)  # from which the branch would be made
    writing.branch(name.repo, options.branch)
    return reading.head(branch)


def _send(
    name: HubName,
    parent: str | None,
    files: "Mapping[str, Addition]",
    contents: Publishable,
    options: PushOptions,
) -> PushReport:
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
        pushed = Pushed(parent, push.changed()) if options.dry_run else push.send()
        commit = pushed.commit
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


def _with_base(
    files: Mapping[str, InputFile], found: "Inspection | Checkpoint", base: str
) -> dict[str, bytes]:
    """The adapter's config file, by name, with `base` as the name of its base model."""
    filed = None if isinstance(found, Checkpoint) else found.adapter.filed
    dialect = None if filed is None else dialect_named(filed.dialect)
    config = None if dialect is None else dialect.config
    if dialect and dialect.base_field and config and config in files:
        fields = {**read_json(files[config]), dialect.base_field: base}
        return {config: encode_json(fields)}
    raise UnsupportedError(
        "there is no adapter's config here that names a base", hint="leave out --base"
    )


def _facts(
    repo: str, found: "Inspection | Checkpoint", steps: Sequence["Step"], options: PushOptions
) -> "CardFacts":
    from loratools.publishing.card.facts import facts_of

    base_models = None if options.base is None else (options.base,)
    return facts_of(repo, found, steps, base_models=base_models, licence=options.license)


def _card_of(repo: str, commit: str | None) -> InputFile | None:
    """The model card in the repository at this commit, if there is one."""
    from loratools.hub.repository import Repository

    there = None if commit is None else Repository(repo, commit)
    if there is None or _CARD not in there.files:
        return None
    _check_size(there.files[_CARD].size, f"{there.name}/{_CARD}")
    return InputFile(there.fetch([_CARD])[_CARD])


def _completed(card: InputFile | None, facts: "CardFacts", template: str | None, name: str) -> str:
    """The text of `card` completed with `facts`; without a card, of a new one."""
    from loratools.publishing.card.readme import complete_card

    existing = None if card is None else _text(card)
    if template is None:
        return complete_card(existing, facts)
    return complete_card(existing, facts, template, template_name=name)


def _text(file: InputFile) -> str:
    _check_size(file.size, file.where)
    try:
        return file.read(0, file.size).decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{file.where}: not UTF-8") from None


def _check_size(size: int, where: str) -> None:
    if size > _MAX_TEXT_BYTES:
        raise FormatError(f"{where}: {size} bytes are too many for a card")
