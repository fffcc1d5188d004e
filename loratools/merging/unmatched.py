"""What adapters change and a base does not have, in words."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

from loratools.adapter import Adapter
from loratools.errors import MatchError, counted, shorten
from loratools.names.looks import kind_of
from loratools.names.matching import BaseNames
from loratools.names.meant_for import meant_for
from loratools.typed import flag

#: An adapter whose names more models have may be for any.
_FEW = 3


@final
class _Complaint(NamedTuple):
    """A target of the adapter of a number, why the base lacks it, and the model it lacks."""

    adapter: int
    target: str
    reason: str
    model: str | None


@final
@dataclass(frozen=True)
class Unmatched:
    """What adapters change and a base does not have, each with the reason."""

    names: BaseNames
    _complaints: list[_Complaint] = field(default_factory=list)

    def add(self, adapter: int, target: str, reason: str) -> None:
        """Add a target of an adapter with this number."""
        self._complaints.append(_Complaint(adapter, target, reason, self.names.lacking(target)))

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._complaints)

    @property
    def first(self) -> str:
        """The first target that was added."""
        return self._complaints[0].target

    def error(self, adapters: Sequence[Adapter], base: str, lacks: str = "") -> MatchError:
        """An error: the first one, how many others there are, and what its adapter is for.

        `lacks` says what of the base was not read. An adapter of which nothing fits is named first,
        as it is the wrong one; else the base is.
        """
        first = self._complaints[0]
        own = adapters[first.adapter]
        if another := self._another_kind(own, base):
            return MatchError(f"{own.where}: {another}", file=own.where)
        more = len(self._complaints) - 1
        rest = f" (and {more} more without a match{self._counted()})" if more else ""
        has_others = len(self._complaints) < sum(len(adapter.updates) for adapter in adapters)
        is_apart = has_others and self._models().total() == len(self._complaints)
        advice = f"{flag('allow_unmatched')} merges the others" if is_apart else None
        lost = sum(complaint.adapter == first.adapter for complaint in self._complaints)
        if lost >= len(own.updates) > 1:
            what = f"none of its updates has a place in {base}{lacks}"
            # The nearest names are of no use where all differ.
            told = re.sub(r"; nearest: .*?(?= \(|$)", "", first.reason)
            reason = f"{told}{rest}{self._meant(own)}"
            hint = ", or ".join(filter(None, (_trained_on(own), advice)))
            return MatchError(f"{own.where}: {what}: {reason}", file=own.where, hint=hint)
        said = f"{base}{lacks}: {first.reason}{rest}{self._meant(own)}"
        return MatchError(said, file=base, hint=advice)

    def notes(self) -> Iterator[str]:
        """What is left out: a line for each model that is missing, and for each other target."""
        for model, count in self._models().items():
            yield f"left out: {counted(count, 'update')} of {self.names.not_there(model)}"
        yield from (f"left out: {c.reason}" for c in self._complaints if c.model is None)

    def _another_kind(self, adapter: Adapter, base_name: str) -> str | None:
        """What the adapter and the base look like, if they are of different kinds of model."""
        kind, base = kind_of(adapter.updates), self.names.kind
        if kind is None or base is None or kind == base:
            return None
        models = meant_for(adapter.updates)
        which = f", {' or '.join(models)}" if 0 < len(models) <= _FEW else ""
        own = self.names.words or " and ".join(sorted(self.names.models))
        return (
            f"for {kind}{which}, and {base_name} is {base}{own and f', {own}'} (by the "
            f"names of their weights); {_trained_on(adapter)}"
        )

    def _meant(self, adapter: Adapter) -> str:
        """What an adapter is for, if its names tell that it is another model than the base."""
        models = meant_for(adapter.updates)
        parts = {component.part for component in self.names.components}
        is_for_base = any(model in (self.names.words or "") for model in models)
        if is_for_base or not 0 < len(models) <= _FEW or (parts and "denoiser" not in parts):
            return ""
        return f", and by its names the adapter is for {' or '.join(models)}"

    def _models(self) -> Counter[str]:
        return Counter(complaint.model for complaint in self._complaints if complaint.model)

    def _counted(self) -> str:
        models = self._models()
        if not models:
            return ""
        counts = [f"{count} of {model}" for model, count in models.items()]
        if others := len(self._complaints) - models.total():
            counts.append(f"{others} of models that it has")
        return f": in all, {', '.join(counts)}"


def _trained_on(adapter: Adapter) -> str:
    """What to do with an adapter on a base that is another model."""
    named = adapter.provenance.base or adapter.provenance.family
    if not named:
        return "name the model that the adapter was trained on"
    return f"name its own base: the adapter says that it was trained on {shorten(named, 60)!r}"
