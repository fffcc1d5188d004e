"""Parameters that an adapter announces as trained and does not store, found in the base."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import final

from loratools.adapter import Adapter
from loratools.errors import listing
from loratools.io.checkpoint import Checkpoint
from loratools.io.dtypes import FLOATS
from loratools.merging.plan import PlannedTensor
from loratools.names.grouping import pattern_of
from loratools.names.heads import known_heads
from loratools.names.saved import SavedNames
from loratools.names.tied import TiedHead
from loratools.parts import Announced
from loratools.typed import one_of, without_lost

#: If it updates a tensor with such a suffix, PEFT 0.21 gives the update to the tied tensor as well;
#: it does so for no other names.
_TIED_BY_PEFT = ("embed_tokens.weight", "lm_head.weight")


@final
@dataclass(frozen=True)
class Planned:
    """The planned tensors after the adapter with this number was added to them.

    `is_wanted` says whether the user wants the adapter applied to the tensor of a name.
    """

    tensors: Mapping[str, PlannedTensor]
    tied: TiedHead | None
    number: int
    is_wanted: Callable[[str], bool]

    def untouched(self) -> Iterator[PlannedTensor]:
        """The base's float tensors that the user wants the adapter applied to, and it is not."""
        for tensor in self.tensors.values():
            is_own = tensor.origin is tensor.base and tensor.dtype in FLOATS
            if is_own and not self.is_updated(tensor.name) and self.is_wanted(tensor.name):
                yield tensor

    def is_updated(self, name: str) -> bool:
        """Whether the adapter updates the tensor of this name."""
        tensor = self.tensors.get(name)
        return tensor is not None and any(c.adapter == self.number for c in tensor.changes)

    def is_other(self, name: str) -> bool:
        """Whether a tensor is new, replaced, or updated by the adapter in more than single rows."""
        tensor = self.tensors.get(name)
        if tensor is None:
            return False
        is_updated = any(c.adapter == self.number and c.rows is None for c in tensor.changes)
        return is_updated or tensor.origin is not tensor.base


def missing(announced: Announced, planned: Planned) -> Iterator[str]:
    """The reasons to refuse the adapter: announced parameters that it has lost."""
    lost = (
        _biases(announced, planned),
        _parts(announced, planned),
        _rows(announced, planned),
        _end(announced, planned),
    )
    yield from filter(None, lost)


def odd(announced: Announced, planned: Planned) -> Iterator[str]:
    """Notes on announced parameters that are not stored, where this need not be a fault.

    A model in memory may have other names than its file, or fewer parts, so perhaps nothing is
    missing.
    """
    weights = [t.name for t in planned.untouched() if len(t.shape) > 1] if announced.modules else []
    for module in announced.modules:
        names = [name for name in weights if f".{name}".endswith(f".{module}.weight")]
        if names:
            yield f"target_modules lists {module!r}, and no update of {listing(names, 3)} is stored"
    biases = _lost_biases(announced, planned)
    if biases and _has_biases(announced, planned):
        yield f"bias is 'all', and {listing(biases, 3)} are not stored: they stay as in the base"
    lacking, stored = _unsaved(announced, planned)
    if others := [name for name in lacking if _place(name) not in stored]:
        yield f"modules_to_save means {listing(others, 3)} too, which is not stored"


def lost_head(adapter: Adapter, base: Checkpoint, planned: Planned) -> Iterator[str]:
    """The reason to refuse an adapter that has lost the head that its task trains.

    The names of heads are known for most types of models; for others the base's names are searched.
    """
    names, task = adapter.announced.heads, adapter.provenance.task
    model_type = (base.config or {}).get("model_type")
    known = [head.parameters for head in known_heads(model_type) if head.task == task]
    saved = SavedNames(names)
    trained = list(filter(saved.hold, known[0] if known else base.tensors))
    stored = {*adapter.replaced, *adapter.updates}
    lost = [n for n in trained if n.endswith(".weight") and n not in stored]
    is_another = stored.isdisjoint(trained) and any(map(saved.hold, stored))
    if any(map(planned.is_wanted, lost)) and not is_another:
        yield (
            f"task_type is {task}, and the trained {listing(lost, 3)} is not stored; "
            f"{without_lost('task_type')}"
        )


def _biases(announced: Announced, planned: Planned) -> str | None:
    biases = _lost_biases(announced, planned)
    if not biases or _has_biases(announced, planned):
        return None
    return (
        f"bias is {announced.biases!r}, and the trained {listing(biases, 3)} are not stored "
        f"(PEFT 0.7 to 0.20 lost those of 'lora_only'); {without_lost('bias', 'them')}"
    )


def _lost_biases(announced: Announced, planned: Planned) -> list[str]:
    """The names of the biases that were trained, but are as in the base."""
    if announced.biases is None:
        return []
    biases = [tensor.name for tensor in planned.untouched() if _is_bias(tensor)]
    if announced.biases == "all":
        return biases
    owners = {name: name.removesuffix(".bias") for name in biases if name.endswith(".bias")}
    return [name for name, owner in owners.items() if planned.is_updated(f"{owner}.weight")]


def _has_biases(announced: Announced, planned: Planned) -> bool:
    """Whether all biases are announced and some stored: svd-extract stores those that changed."""
    is_new = (_is_bias(t) and t.origin is not t.base for t in planned.tensors.values())
    return announced.biases == "all" and any(is_new)


def _parts(announced: Announced, planned: Planned) -> str | None:
    """The reason to refuse modules that are stored in part: without a bias, or in some layers."""
    lacking, stored = _unsaved(announced, planned)
    parts = [name for name in lacking if _place(name) in stored]
    if not parts:
        return None
    return (
        f"modules_to_save means {listing(parts, 3)} too, which is not stored, as the rest is: what "
        f"was trained there is lost, and PEFT does not load such an adapter; "
        f"{one_of('skip', parts[0])} "
        f"leaves it as in the base"
    )


def _rows(announced: Announced, planned: Planned) -> str | None:
    """The reason to refuse announced rows that are not stored, unless a tied module has them."""
    rows = [name for name in announced.rows if planned.is_wanted(f"{name}.weight")]
    if planned.tied is not None or not rows:
        return None
    return (
        f"trainable_token_indices announces rows of {listing(rows)} that are not stored, and the "
        f"base ties no weights, so that they are not those of another module"
    )


def _end(announced: Announced, planned: Planned) -> str | None:
    """The reason to refuse a tied embedding or head stored alone: PEFT trains and stores both."""
    if planned.tied is None or not announced.ties_ends:
        return None
    ends = planned.tied.embedding, planned.tied.head
    lost = [end for end in ends if not planned.is_other(end)]
    stored = [end for end in ends if planned.is_other(end)]
    if len(lost) != 1 or not planned.is_wanted(lost[0]) or not stored[0].endswith(_TIED_BY_PEFT):
        return None
    return (
        f"ensure_weight_tying is set, and no update of {lost[0]} is stored, which the base ties to "
        f"the other end: PEFT trains both as one and stores both; "
        f"{without_lost('ensure_weight_tying')}"
    )


def _unsaved(announced: Announced, planned: Planned) -> tuple[list[str], set[str]]:
    """Tensors of saved modules that are as in the base, and the modules of those that are not."""
    names = SavedNames(announced.saved)
    lacking = [t.name for t in planned.untouched() if _is_parameter(t) and names.hold(t.name)]
    tensors = planned.tensors.values() if lacking else ()
    stored = {_place(t.name) for t in tensors if t.origin is not t.base and names.hold(t.name)}
    return lacking, stored


def _place(name: str) -> str:
    """The module of a parameter, with `*` in place of the layer's number."""
    return pattern_of(name).rpartition(".")[0]


def _is_parameter(tensor: PlannedTensor) -> bool:
    return tensor.name.endswith(".weight") or _is_bias(tensor)


def _is_bias(tensor: PlannedTensor) -> bool:
    return tensor.name.endswith("bias") and len(tensor.shape) == 1
