"""Decides about tensors that replace the base's, when adapters that store them are combined."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, final

from loratools.adapter import Adapter
from loratools.errors import UnsupportedError, listing, shorten
from loratools.io.computed import Computed
from loratools.io.dtypes import FACTORS, torch_name
from loratools.io.source import Source
from loratools.io.values import same_bytes
from loratools.parts import ReplacedRows, Replacement
from loratools.reshaping.factors import widest
from loratools.typed import option

if TYPE_CHECKING:
    from torch import Tensor

#: What to do with whole tensors that are not equal in all adapters.
Policy = Literal["refuse", "first", "average"]


@final
@dataclass(frozen=True)
class Agreement:
    """The whole tensors and rows of the combined adapter, and notes about them.

    `passengers` are the tensors beside the adapters that are written again, by key.
    """

    replaced: Mapping[str, Replacement]
    rows: Mapping[str, ReplacedRows]
    passengers: Mapping[str, Source]
    notes: tuple[str, ...]


def agree(adapters: Sequence[Adapter], policy: Policy) -> Agreement:
    """Keep whole tensors that are equal in all adapters, and treat others by the policy.

    Copies of the base's own tensors, which only some adapters may store, are kept if they are
    equal.

    Raises:
        UnsupportedError: tensors differ, or only some adapters have them, and the policy is to
            refuse; or one adapter trains rows of a tensor that another trains whole.
        FormatError: two tensors of an adapter that should be equal are not.
    """
    _refuse_overlap(adapters)
    notes: list[str] = []
    replaced = {}
    for target in dict.fromkeys(name for adapter in adapters for name in adapter.replaced):
        found = [adapter.replaced.get(target) for adapter in adapters]
        replaced[target] = _replacement(target, found, policy, notes)
    rows = {}
    for target in dict.fromkeys(name for adapter in adapters for name in adapter.rows):
        rows[target] = _rows(
            target, [adapter.rows.get(target) for adapter in adapters], policy, notes
        )
    passengers = _passengers(adapters, policy, notes)
    for adapter in adapters:
        for copy in adapter.copies:
            copy.check(adapter.where)
        unused = (key for key in adapter.inert if key not in passengers)
        left_out = [*unused, *(copy.source.keys[0] for copy in adapter.copies)]
        if left_out:
            notes.append(f"{adapter.where}: left out, without effect: {listing(left_out)}")
    return Agreement(replaced, rows, passengers, tuple(notes))


def _passengers(
    adapters: Sequence[Adapter], policy: Policy, notes: list[str]
) -> Mapping[str, Source]:
    """The tensors beside the adapters; of two with the same name the first, if the policy is so."""
    taken: dict[str, Source] = {}
    for adapter in adapters:
        for key, source in (adapter.filed.passengers if adapter.filed else {}).items():
            if same_bytes(taken.setdefault(key, source), source):
                continue
            if policy != "first":
                raise UnsupportedError(
                    f"{shorten(key)}: is carried along beside the updates and differs between the "
                    f"adapters",
                    tensor=key,
                    hint=f"{option('replaced', 'first')} takes the first",
                )
            notes.append(f"{key}: the first is taken")
    return taken


def _refuse_overlap(adapters: Sequence[Adapter]) -> None:
    """Refuse single rows of a tensor if another adapter updates or replaces the whole tensor."""
    for rows_of in adapters:
        for target in rows_of.rows:
            for other in adapters:
                replaced = other.replaced.get(target)
                is_trained = replaced is not None and replaced.is_trained
                if is_trained or (target in other.updates and target not in other.rows):
                    raise UnsupportedError(
                        f"{shorten(target)}: {rows_of.where} trains rows of what {other.where} "
                        f"trains whole, and which of them counts cannot be stored in one adapter",
                        tensor=target,
                    )


def _replacement(
    target: str, found: Sequence[Replacement | None], policy: Policy, notes: list[str]
) -> Replacement:
    stored = [replacement for replacement in found if replacement is not None]
    is_complete = len(stored) == len(found) or not any(r.is_trained for r in stored)
    sources = [replacement.source for replacement in stored]
    source = _agreed(target, sources, policy, notes, is_complete=is_complete)
    return Replacement(source, is_trained=any(r.is_trained for r in stored))


def _rows(
    target: str, found: Sequence[ReplacedRows | None], policy: Policy, notes: list[str]
) -> ReplacedRows:
    stored = [rows for rows in found if rows is not None]
    if policy != "first" and any(rows.indices != stored[0].indices for rows in stored):
        raise UnsupportedError(
            f"{shorten(target)}: the adapters have trained different rows of it", tensor=target
        )
    sources = [rows.rows for rows in stored]
    is_complete = len(stored) == len(found)
    return replace(stored[0], rows=_agreed(target, sources, policy, notes, is_complete=is_complete))


def _agreed(
    target: str, sources: Sequence[Source], policy: Policy, notes: list[str], *, is_complete: bool
) -> Source:
    first = sources[0]
    if is_complete and all(same_bytes(first, other) for other in sources[1:]):
        return first
    if policy == "refuse":
        state = "differs between the adapters" if is_complete else "is in some of the adapters only"
        raise UnsupportedError(
            f"{shorten(target)}: takes the place of the base's tensor and {state}",
            tensor=target,
            hint=f"{option('replaced', 'first')} or average decides",
        )
    notes.append(f"{target}: {'the first' if policy == 'first' else 'the average'} is taken")
    if policy == "first" or len(sources) == 1:
        return first
    if any(source.shape != first.shape for source in sources):
        raise UnsupportedError(
            f"{shorten(target)}: has different shapes, and no average", tensor=target
        )
    if any(source.dtype not in FACTORS for source in sources):
        dtypes = ", ".join(dict.fromkeys(torch_name(source.dtype) for source in sources))
        raise UnsupportedError(
            f"{shorten(target)}: is stored as {dtypes}, which has no average", tensor=target
        )
    dtype = widest([source.dtype for source in sources])
    return Computed(tuple(sources), dtype, first.shape, _mean)


def _mean(tensors: "Sequence[Tensor]") -> "Tensor":
    total = tensors[0].double()
    for tensor in tensors[1:]:
        total = total + tensor.double()
    return total / len(tensors)
