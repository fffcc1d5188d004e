"""The facts about a stored adapter or a merged model that its model card states."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

from loratools.describing.description import Inspection
from loratools.describing.groups import TargetGroup
from loratools.errors import FormatError, HubError
from loratools.files.place import layers_of
from loratools.formats import Dialect, dialect_named
from loratools.hub.names import HubName, is_hub_name
from loratools.io.checkpoint import Checkpoint
from loratools.publishing.card.reports import CardFigure, CardSource, Step

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_ID = re.compile(f"(?:{_PART}/)?{_PART}")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
#: Suffixes of files and of git's addresses: what has one is not the name of a model.
_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".git")
#: Auto classes of transformers, by the suffix of an architecture's name.
_ARCHITECTURES = {
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
}


@final
@dataclass(frozen=True)
class CardTarget:
    """Updates whose names differ only in numbers; `ranks` is empty for updates stored whole."""

    pattern: str
    count: int
    ranks: tuple[int, ...]
    kind: str


@final
@dataclass(frozen=True)
class CardFacts:
    """The facts that a model card states.

    Attributes:
        repo: `owner/name` of what the card describes.
        base_models: the bases' names on the Hub, without `hf://`.
        library_name: the library that loads it, as the adapter's dialect says, or `transformers`;
            None where no library is known to.
        licence: the Hub's identifier of it; None leaves it out.
        model_class: the class of transformers that loads the model, or the adapter's base.

    Raises:
        FormatError: a name or a licence is not what the Hub accepts as one.
    """

    repo: str
    kind: Literal["adapter", "merge"]
    base_models: tuple[str, ...] = ()
    library_name: str | None = None
    licence: str | None = None
    tags: tuple[str, ...] = ()
    targets: tuple[CardTarget, ...] = ()
    sources: tuple[CardSource, ...] = ()
    figures: tuple[CardFigure, ...] = ()
    model_class: str | None = None

    def __post_init__(self) -> None:
        """Refuse names that the Hub would refuse, or that would break the card's usage example."""
        if not is_id(self.repo) or "/" not in self.repo:
            raise FormatError(f"{self.repo!r} is not the name of a repository, as in owner/name")
        for base in self.base_models:
            if not is_id(base):
                raise FormatError(f"{base!r} is not the name of a model on the Hub")
        if self.licence is not None and not _LICENCE.fullmatch(self.licence):
            raise FormatError(f"{self.licence!r} is not a licence's identifier, as in apache-2.0")
        if self.model_class is not None and not _is_class(self.model_class):
            raise FormatError(f"{self.model_class!r} is not the name of a class")


def facts_of(
    repo: str,
    stored: Inspection | Checkpoint,
    steps: Sequence[Step] = (),
    *,
    base_models: Sequence[str] | None = None,
    licence: str | None = None,
) -> CardFacts:
    """Collect the facts about a stored adapter or merged model.

    `steps` are those that reports of verbs describe, the first one first. `base_models` are names
    on the Hub; by default, those named by the reports and, for an adapter, by itself. Of paths on
    this machine only the last part is kept, and a base that is known only by a path is left out.

    Raises:
        FormatError: a name or a licence is invalid.
    """
    if base_models is None:
        base_models = [name for name in map(hub_id, _bases(stored, steps)) if name is not None]
    return CardFacts(
        repo=repo,
        kind="adapter" if isinstance(stored, Inspection) else "merge",
        base_models=tuple(dict.fromkeys(base_models)),
        library_name=_library(stored),
        licence=None if licence is None else licence.lower(),
        tags=_tags(stored),
        targets=_targets(stored.groups) if isinstance(stored, Inspection) else (),
        sources=tuple(source for step in steps for source in step.sources),
        figures=tuple(figure for step in steps for figure in step.figures),
        model_class=_model_class(stored),
    )


def is_id(name: str) -> bool:
    """Whether `name` can be a model's on the Hub, where some old models have no owner.

    >>> is_id("owner/name"), is_id("gpt2"), is_id("./name"), is_id("model.safetensors")
    (True, True, False, False)
    """
    is_legal = _ID.fullmatch(name) is not None and len(name) <= 96
    return is_legal and not any(s in name for s in ("--", "..")) and not name.endswith(_FILES)


def hub_id(name: str) -> str | None:
    """The id of a model from an `hf://` name or as it stands; None for anything else."""
    if is_hub_name(name):
        try:
            name = HubName.parse(name).repo
        except HubError:
            return None
    return name if is_id(name) else None


def _bases(stored: Inspection | Checkpoint, steps: Sequence[Step]) -> Iterator[str]:
    """Bases that reports name on the Hub; without any, the adapter's own, which may be a path."""
    bases = [str(layers_of(step.base)[0]) for step in steps if step.base is not None]
    named = [base for base in bases if is_hub_name(base)]
    if named or isinstance(stored, Checkpoint):
        yield from named
        return
    if stored.adapter.provenance.base is not None:
        yield stored.adapter.provenance.base


def _library(stored: Inspection | Checkpoint) -> str | None:
    if isinstance(stored, Checkpoint):
        if stored.is_pipeline or "_class_name" in (stored.config or {}):
            return "diffusers"
        return "transformers" if _architecture(stored) else None
    dialect = _dialect(stored)
    return None if dialect is None else dialect.library


def _dialect(found: Inspection) -> Dialect | None:
    filed = found.adapter.filed
    return None if filed is None else dialect_named(filed.dialect)


def _tags(stored: Inspection | Checkpoint) -> tuple[str, ...]:
    if isinstance(stored, Checkpoint):
        return ("merge", "loratools")
    deltas = [update.delta for update in stored.adapter.updates.values()]
    kinds = [delta.kind.lower() for delta in deltas if len(delta.shape) > 1]
    dialect = _dialect(stored)
    of_dialect = () if dialect is None else dialect.tags
    return tuple(dict.fromkeys(["lora", *kinds, *of_dialect, "loratools"]))


def _targets(groups: Sequence[TargetGroup]) -> tuple[CardTarget, ...]:
    """One row for each pattern and kind, whatever its ranks and scalings."""
    rows: dict[tuple[str, str], list[TargetGroup]] = {}
    for group in groups:
        rows.setdefault((group.pattern, group.kind), []).append(group)
    return tuple(
        CardTarget(
            pattern,
            sum(group.count for group in members),
            tuple(sorted({group.rank for group in members if group.rank is not None})),
            kind,
        )
        for (pattern, kind), members in rows.items()
    )


def _model_class(stored: Inspection | Checkpoint) -> str | None:
    if isinstance(stored, Checkpoint):
        name = _architecture(stored)
        if name is None:
            return None
        return next((c for end, c in _ARCHITECTURES.items() if name.endswith(end)), name)
    dialect = _dialect(stored)
    return None if dialect is None else dialect.base_class(stored.adapter)


def _architecture(model: Checkpoint) -> str | None:
    """The first architecture in the model's config, if that is the name of a class."""
    names = (model.config or {}).get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    return str(name) if _is_class(name) else None


def _is_class(name: object) -> bool:
    return isinstance(name, str) and name.isascii() and name.isidentifier()
