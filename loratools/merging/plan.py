"""The plan of a merge, as a value: what becomes of each tensor of the base and of the adapters.

A plan that exists can be carried out: names are matched, shapes agree, every adapter tensor is
accounted for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, final, get_args

from loratools.adapter import Adapter
from loratools.arguments import checked_fields
from loratools.checks import check_choice
from loratools.deltas import Delta
from loratools.deltas.rows import Rows
from loratools.errors import counted, shorten
from loratools.io.checkpoint import Checkpoint
from loratools.io.dtypes import from_torch_name
from loratools.io.source import Source, Stored
from loratools.names.block_weights import UNWEIGHTED, BlockWeights
from loratools.names.packed import NOTHING_PACKED, Packed
from loratools.names.tied import TiedHead
from loratools.showing.shown import Brief

#: The dtypes of a merged model, by their names in torch.
Dtype = Literal["float32", "bfloat16", "float16"]


@checked_fields
@final
@dataclass(frozen=True, repr=False)
class MergeOptions(Brief):
    """Which updates to merge, and the dtype of the result.

    Attributes:
        dtype: the dtype of all float weights: `float32`, `bfloat16` or `float16`; None keeps each
            one's own.
        only: change only tensors that match one of these globs.
        skip: leave tensors that match one of these globs as they are. Globs are matched with names
            of tensors and of their modules. One that matches nothing is an error.
        allow_unmatched: leave out updates that the model has no place for; the report names them.
        block_weights: for each adapter, in order: weights of the blocks of an image model, as a
            text: a list of numbers, a preset, or blocks by name (`OUTD`, `IN04=0.5`). None keep all
            at 1.

    Example:
        >>> import loratools
        >>> base, adapter = "fixtures/stories260k", "fixtures/adapters/plain"
        >>> options = loratools.MergeOptions(skip=["*.mlp.*"])
        >>> loratools.merge(base, adapter, options=options).accounting
        '40 of 70 adapter tensors applied to 20 weights; ...'
    """

    dtype: Dtype | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    allow_unmatched: bool = False
    block_weights: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Refuse a dtype that is not one of these."""
        check_choice("dtype", self.dtype, get_args(Dtype))

    @property
    def stored_dtype(self) -> str | None:
        """The safetensors name of `dtype`."""
        return None if self.dtype is None else from_torch_name(self.dtype)


@final
@dataclass(frozen=True)
class Change:
    """One adapter's change to one weight, oriented as the base stores that weight.

    `adapter` is the adapter's number, from 0. `rows` is the same as `delta` if the adapter has
    trained single rows, and None otherwise. `is_shared` is whether an embedding's change is one of
    the head too where both are tied. `block_weight` is the factor that an additive `delta` has from
    the weight of its block, beside `strength`.
    """

    adapter: int
    target: str
    delta: Delta
    strength: float
    renaming: str | None
    is_transposed: bool
    rows: Rows | None = None
    is_shared: bool = False
    block_weight: float = 1.0


@final
@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the output: the values that it starts from, and the changes to them.

    Attributes:
        base: the base's tensor; for a tied head that is not stored, the embedding; None for a
            tensor that the base does not have.
        origin: the values to start from: those of `base`, or of what an adapter puts in its place.
        is_trained: whether `origin` is itself a result of training.
        is_renamed: whether the base has it under another name.
    """

    name: str
    dtype: str
    base: Stored | None
    origin: Source
    is_trained: bool = False
    changes: tuple[Change, ...] = ()
    is_renamed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output tensor."""
        return self.origin.shape

    @property
    def is_own(self) -> bool:
        """Whether `base` is this tensor itself, and not an embedding that it was tied to."""
        return self.base is not None and (self.is_renamed or self.base.name == self.name)

    @property
    def is_changed(self) -> bool:
        """Whether the plan changes or replaces the base's tensor, or the base has none."""
        return bool(self.changes) or self.origin is not self.base or not self.is_own

    @property
    def is_unchanged(self) -> bool:
        """Whether the output has the base's tensor with the same bytes."""
        return not self.is_changed and self.dtype == self.origin.dtype

    @property
    def is_copied(self) -> bool:
        """Whether the output has the bytes of a stored tensor, the base's or an adapter's."""
        is_stored = isinstance(self.origin, Stored)
        return is_stored and not self.changes and self.dtype == self.origin.dtype


@final
@dataclass(frozen=True)
class NewHead:
    """The head that the output gets from an adapter, as `config.json` describes it.

    Attributes:
        architecture: the class of the output; None if it stays unknown.
        labels: the number of labels.
        label_names: the labels' names in order; None if the config need not name them.
        problem_type: the field of that name in the config beside the adapter.
        pad_token: the id of the padding token, if the config lacks it and a tokenizer has it.
        needs_pad_token: whether the config lacks a padding token, without which the class takes
            only one text at a time.
    """

    architecture: str | None
    labels: int
    label_names: tuple[str, ...] | None
    problem_type: str | None = None
    pad_token: int | None = None
    needs_pad_token: bool = False


@final
@dataclass(frozen=True)
class Accounting:
    """What becomes of every tensor of the adapters, each named as `adapter number: key`.

    Attributes:
        applied: tensors that are applied; some may turn out to change nothing.
        skipped: tensors left out by `only` and `skip`.
        weightless: tensors of blocks with a weight of 0, which are left out too.
        unmatched: tensors without a counterpart in the base, left out by `allow_unmatched`.
        inert: tensors that change no weight, with the reason.
    """

    applied: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    weightless: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    inert: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of tensors in all adapter files."""
        groups = (self.applied, self.skipped, self.weightless, self.unmatched, self.inert)
        return sum(len(group) for group in groups)


@final
@dataclass(frozen=True, repr=False)
class MergePlan:
    """The whole plan of a merge.

    Attributes:
        tensors: the output's tensors by name: the base's in their order, then the new ones.
        accounting: what becomes of every tensor of the adapters.
        notes: remarks for the user on what was decided.
        warnings: reasons why the output is not the model that it seems to be.
        untied: the tied head that becomes a tensor of its own; None if none does.
        vocabulary: the rows of the embedding before and after, if they differ.
        head: the classifier's head that an adapter brings, for a config that describes it.
        packed: the packed weights of the base, which stay as they are.
        recognised: the models of the base and whose names they have, in words, if they are known.
        block_weights: the weights of the blocks of each adapter; empty if none were given.
    """

    base: Checkpoint
    adapters: tuple[Adapter, ...]
    weights: tuple[float, ...]
    tensors: Mapping[str, PlannedTensor]
    accounting: Accounting
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    untied: TiedHead | None = None
    vocabulary: tuple[int, int] | None = None
    head: NewHead | None = None
    packed: Packed = NOTHING_PACKED
    recognised: str | None = None
    block_weights: tuple[BlockWeights, ...] = ()

    def __repr__(self) -> str:
        """One line: the base, and how much changes."""
        changes = f"{len(self.changed)} of {counted(len(self.tensors), 'tensor')} changed"
        return f"<MergePlan of {shorten(self.base.where)}: {changes}>"

    @property
    def adapters_weighted(self) -> Iterator[tuple[Adapter, float, BlockWeights]]:
        """Each adapter with its weight and those of its blocks."""
        blocks = self.block_weights or (UNWEIGHTED,) * len(self.adapters)
        return zip(self.adapters, self.weights, blocks, strict=True)

    @property
    def of_base(self) -> Mapping[str, PlannedTensor]:
        """The output's tensors that the base has too, by its names for them."""
        return {t.base.name: t for t in self.tensors.values() if t.base and t.is_own}

    @property
    def changed(self) -> tuple[PlannedTensor, ...]:
        """The output's tensors that are new, replaced or changed."""
        return tuple(tensor for tensor in self.tensors.values() if tensor.is_changed)
