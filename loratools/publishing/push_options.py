"""What a push sends, and where to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from loratools.arguments import checked_fields
from loratools.showing.shown import Brief


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
