"""The contract of a trap: what it is, who goes wrong and how, how it is found and repaired."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, final

from loratools.adapter import Adapter
from loratools.deltas.lora import Scaling
from loratools.errors import listing
from loratools.parts import Note

if TYPE_CHECKING:
    from loratools.io.checkpoint import Checkpoint


@final
@dataclass(frozen=True)
class Seen:
    """What a trap is looked for in: an adapter, a base if one is given, and values if allowed."""

    adapter: Adapter
    base: "Checkpoint | None" = None
    reads_values: bool = False


@final
class Change(NamedTuple):
    """What a repair changed: at one target, or in the whole file where `target` is None."""

    target: str | None
    before: str
    after: str
    trap: str = ""


class Trap(ABC):
    """A trap; its name is that of its module."""

    #: The trap in one sentence. This and the next two are rows of the page on traps, in Markdown.
    what: ClassVar[str]
    #: The programs that go wrong, and how.
    readers: ClassVar[str]
    #: The commands that find it.
    found_by: ClassVar[str] = "`inspect`"
    #: Whether the trap leaves open what the update is, so that every verb has to show it.
    is_doubt: ClassVar[bool] = False

    @property
    @abstractmethod
    def cure(self) -> str:
        """What is done about it: by `rescale --repair`, or else by the user."""

    @property
    def is_repaired(self) -> bool:
        """Whether `rescale --repair` repairs it."""
        own = type(self)
        return own.repair is not Trap.repair or own.cured is not Trap.cured

    def find(self, seen: Seen) -> Iterator[Note]:
        """Notes on the trap where it is found; none for a trap that only a dialect notices."""
        return iter(())

    def cured(self, adapter: Adapter) -> Mapping[str, Scaling]:
        """The scalings that repair the trap, by target; none where it is not found."""
        return {}

    def repair(self, adapter: Adapter) -> tuple[Adapter, tuple[Change, ...]]:
        """The adapter without the trap, and what was changed; as it is where it is not found."""
        cured = self.cured(adapter)
        updates = dict(adapter.updates)
        changes = []
        for target, scaling in cured.items():
            update = updates[target]
            before = update.delta.scaling
            assert before is not None, target
            updates[target] = replace(update, delta=update.delta.with_scaling(scaling))
            changes.append(Change(target, _in_words(before), _in_words(scaling)))
        return replace(adapter, updates=updates), tuple(changes)


def scalings(adapter: Adapter) -> Iterator[tuple[str, Scaling]]:
    """The scaling of each update that has one, by target."""
    for target, update in adapter.updates.items():
        scaling = update.delta.scaling
        if scaling is not None:
            yield target, scaling


def listed(targets: Iterable[str]) -> str:
    """Some of the targets as text.

    The update of a bias has the scaling of its weight's, and is not listed beside it.
    """
    targets = tuple(targets)
    return listing([name for name in targets if not name.endswith("bias")] or targets, 3)


def _in_words(scaling: Scaling) -> str:
    rule = {"rank": "", "sqrt_rank": " / √rank", "direct": ""}[scaling.rule]
    return f"alpha {scaling.alpha:.7g}{rule} ({scaling.origin}), scaling {scaling.value:.6g}"
