"""The canonical adapter: the weights that it changes and replaces, and what its files say of it.

Every dialect is decoded to this form, and every verb works on it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Never, Protocol, TypeVar, final

from loratools.arguments import checked
from loratools.errors import (
    ArgumentError,
    TargetError,
    UnsupportedError,
    counted,
    listing,
    shorten,
)
from loratools.guesses import Answering
from loratools.io.companions import Companion
from loratools.nearest import meant, ours
from loratools.other_words import COMMANDS, OF_A_TARGET, OF_AN_ADAPTER
from loratools.parts import (
    Announced,
    ByTarget,
    Copy,
    Filed,
    Note,
    Provenance,
    ReplacedRows,
    Replacement,
    Update,
)
from loratools.target import Target, table_of

#: The functions of loratools that take an adapter first, or one after a base.
_VERBS = ("combine", "convert", "inspect", "merge", "push", "rescale", "resize", "swap")


class Report(Protocol):
    """The report of a verb that made an adapter: it says what was done, and by how much."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on what is odd about the adapter."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The report as the documented JSON object."""
        ...


if TYPE_CHECKING:
    import typing_extensions  # type checkers know it, so that it is no dependency

    # With a default, so that `Adapter` alone is any adapter; `typing` has defaults from 3.13 on.
    R_co = typing_extensions.TypeVar(
        "R_co", bound=Report | None, covariant=True, default=Report | None
    )
else:
    R_co = TypeVar("R_co", covariant=True)


@final
@dataclass(frozen=True, eq=False)
class Adapter(Answering, Mapping[str, Target], Generic[R_co]):
    """An adapter, with its parts by target: the full name of a parameter, as its trainer saw it.

    `open_adapter` reads one from files. It is a mapping from the names of targets to what it does
    to them. `adapter[name]` also takes the name of a module, and the end of a name that no other
    target has: `adapter["0.self_attn.q_proj"]`. An adapter equals itself alone, without a look at
    its values; to compare what two of them do, compare the `update()` of their targets.

    Attributes:
        where: the adapter's file or folder, for messages.
        updates: updates of parameters, in file order.
        replaced: whole tensors that replace the base's, or that the base lacks.
        rows: rows of matrices that replace the base's.
        copies: stored tensors that repeat another one, which has to be verified when they are read.
        inert: the keys of stored tensors without effect, each with the reason.
        provenance: the origin of the adapter.
        notes: remarks for people, on the files and their contents.
        companions: the files of its tokenizer and its processor, unread.
        nbytes: the size of the stored tensors in bytes.
        model_config: the `config.json` beside it, which describes the model it was trained on.
        announced: the parts that its config announces and that only a base shows to be missing.
        beside: other files of weights in its folder.
        renamed: the notes, among `notes`, on tensors that are read under other names.
        unused: the notes, among `notes`, on options for reading that change nothing here.
        filed: what its dialect keeps of the files, to write them unchanged; None if the adapter was
            not read from files, or is to be written from all of the above alone.
        report: the report of the verb that made it in memory; None for one that was opened. Its
            type is a parameter: `combine` makes an `Adapter[CombineReport]`, and `Adapter` alone is
            any of them.
        saver: what writes it, given its path and whether to overwrite: modules above this one know.
        made_of: the names of what a verb made it of in memory. Its tensors may still be read from
            there, so that it must not be written there.
    """

    _MADE_BY = "open_adapter reads one from files, and adapter_from_tensors makes one"

    where: str
    updates: Mapping[str, Update]
    replaced: Mapping[str, Replacement]
    rows: Mapping[str, ReplacedRows]
    copies: tuple[Copy, ...]
    inert: Mapping[str, str]
    provenance: Provenance
    notes: tuple[Note, ...]
    companions: tuple[Companion, ...]
    nbytes: int
    model_config: Mapping[str, Any] | None = None
    announced: Announced = field(default_factory=Announced)
    beside: tuple[str, ...] = ()
    renamed: tuple[Note, ...] = ()
    unused: tuple[Note, ...] = ()
    filed: Filed | None = None
    report: R_co = None  # type: ignore[assignment]  # which R_co has where no report is given
    saver: "Callable[[Adapter, Path, bool], object] | None" = None
    made_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Keep the parts from being changed: what was decoded of them would be wrong then."""
        for name in ("updates", "replaced", "rows"):
            object.__setattr__(self, name, ByTarget.of(getattr(self, name)))

    def __getitem__(self, name: str) -> Target:
        """The target of this name, of this module, or whose name alone ends so.

        Raises:
            TargetError: there is none, or the name could mean several.
        """
        target = self._named(name)
        update, replaced = self.updates.get(target), self.replaced.get(target)
        rows = self.rows.get(target)
        if update is not None and replaced is not None and not replaced.is_trained:
            replaced = None  # the weight that the update was trained on, stored beside it
        return Target(
            self.where,
            target,
            delta=update and update.delta,
            whole=replaced and replaced.source,
            indices=rows.indices if rows is not None else (),
            rows=rows and rows.rows,
        )

    def __iter__(self) -> Iterator[str]:
        """The names of its targets: of updates in file order, then of what is replaced."""
        return iter(dict.fromkeys((*self.updates, *self.replaced, *self.rows)))

    def __len__(self) -> int:
        """The number of its targets."""
        return len(self.updates.keys() | self.replaced.keys() | self.rows.keys())

    def __eq__(self, other: object) -> bool:
        """Whether it is the same object, so that an adapter can be a key of a dictionary."""
        return self is other

    def __hash__(self) -> int:
        """The hash of the object."""
        return object.__hash__(self)

    def __repr__(self) -> str:
        """One line: where it is, its kinds and the number of its targets."""
        kinds = ", ".join(self.kinds) or "whole tensors"
        made_of = listing(self.made_of or [self.where])
        where = self.where if self.report is None else f"in memory, made of {made_of}"
        return f"<Adapter {where}: {kinds}, {counted(len(self), 'target')}>"

    def _repr_html_(self) -> str:
        from loratools.showing.html import html_of

        return html_of([repr(self)[1:-1], *([table_of(list(self.values()))] if len(self) else [])])

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    @classmethod
    def _meant(cls, name: str) -> str | None:
        found = ours(name, OF_AN_ADAPTER)
        if found is not None:
            return f"did you mean {found}?"
        found = name if hasattr(Target, name) else ours(name, OF_A_TARGET)
        if found is not None:
            return f"a target has it: adapter[name].{found}"
        verb = meant(name, _VERBS, COMMANDS)
        return verb and f"did you mean loratools.{verb}?"

    if not TYPE_CHECKING:  # to which there are no such operators

        def _compute(self, *_: object) -> Never:
            raise ArgumentError(
                "adapters have no arithmetic",
                hint="loratools.combine([(one, 0.7), other]) adds them, and "
                "loratools.rescale(adapter, strength=0.5) multiplies one",
            )

        __add__ = __radd__ = __sub__ = __rsub__ = __neg__ = _compute
        __mul__ = __rmul__ = __truediv__ = __matmul__ = _compute

    @checked
    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the adapter in its own format: a folder, or a file where the format has one.

        Returns the path. `loratools.convert` writes other formats.

        Raises:
            LoratoolsError: see `loratools.errors`; no output is left then.
        """
        assert self.saver is not None, self.where
        self.saver(self, Path(path), overwrite)
        return Path(path)

    def _named(self, name: str) -> str:
        """The full name of the target that `name` means."""
        if not isinstance(name, str):
            first = next(iter(self), None)
            raise TargetError(
                f"{self.where}: {name!r:.60} is no name of a target, which is text",
                file=self.where,
                hint=first and f"use a name, such as {shorten(first)!r}, or list(adapter.values())",
            )
        for whole in (name, f"{name}.weight"):
            if whole in self.updates or whole in self.replaced or whole in self.rows:
                return whole
        end = name.lstrip("…*.")
        fits = [target for target in self if end and _ends_with(target, end)]
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise TargetError(
                f"{self.where}: {name!r:.120} could be {listing(fits)}", file=self.where
            )
        near = [target for target in self if _has_words(target, end)] or _alike(name, self)
        first = next(iter(self), "")
        has = f"list(adapter) has the names, such as {shorten(first)!r}" if first else None
        hint = f"did you mean {listing(near)}?" if near else has
        raise TargetError(
            f"{self.where}: has no target {shorten(name)!r}",
            tensor=name,
            file=self.where,
            hint=hint,
        )

    @property
    def notes_beside(self) -> tuple[Note, ...]:
        """A note on other weights in the adapter's folder, which may have been trained with it."""
        if not self.beside:
            return ()
        text = f"other weights are in its folder, and are not applied: {listing(self.beside)}"
        return (Note("problem", text, trap="stray-weights"),)

    @property
    def remarks(self) -> tuple[Note, ...]:
        """The notes that a verb repeats when it makes a new adapter of this one.

        These are the notes on other names and on options without a use, the problems, those on an
        alpha that was assumed, which the new adapter may state, and the note on other files of
        weights.
        """
        repeated = (n for n in self.notes if n.severity == "problem" or n.trap == "missing-alpha")
        return (*self.renamed, *self.unused, *repeated, *self.notes_beside)

    def check_usable(self) -> None:
        """Check that no note refuses the adapter: that its tensors alone say what it does.

        Raises:
            UnsupportedError: there is such a note.
        """
        for note in self.notes:
            if note.severity == "refusal":
                where = note.file or self.where
                raise UnsupportedError(f"{where}: {note.message}", file=where)

    @property
    def alpha_from(self) -> tuple[str, ...]:
        """Where the alphas of its updates were found, in order of appearance."""
        scalings = (update.delta.scaling for update in self.updates.values())
        return tuple(dict.fromkeys(scaling.origin for scaling in scalings if scaling is not None))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the kinds of update that occur, in order of appearance."""
        return tuple(dict.fromkeys(update.delta.kind for update in self.updates.values()))


def _ends_with(target: str, end: str) -> bool:
    """Whether a target's name, or its module's, ends with a dot or `_` and `end`."""
    names = (target, target.removesuffix(".weight"))
    return any(name.endswith((f".{end}", f"_{end}")) for name in names)


def _has_words(target: str, name: str) -> bool:
    """Whether a target has all words of a name, in this order: `0.q_proj` of `0.attn.q_proj`."""
    words = iter(target.split("."))
    return bool(name) and all(word in words for word in name.split("."))


def _alike(name: str, known: Iterable[str]) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name, list(known), n=3, cutoff=0.4)
