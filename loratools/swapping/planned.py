"""The plan of a swap: a merge into the original tensors that changes nothing but their numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from loratools.adapter import Adapter
from loratools.errors import UnsupportedError, listing
from loratools.files.companions import Companions, companions
from loratools.io.checkpoint import Checkpoint
from loratools.io.file import InputFile
from loratools.io.hashes import placeholders
from loratools.io.source import Stored
from loratools.merging.arrange import corrected_configs
from loratools.merging.padding import with_pad_token
from loratools.merging.plan import MergeOptions, MergePlan, PlannedTensor
from loratools.merging.planner import plan_merge
from loratools.merging.report import MergeReport
from loratools.typed import merging


def on_originals(base: Checkpoint, originals: Mapping[str, Stored]) -> Checkpoint:
    """The model as it was before any swap: these tensors in place of those in its files."""
    return base.with_shards(
        lambda shard: replace(shard, tensors=tuple(originals.get(t.name, t) for t in shard.tensors))
    )


def planned(
    base: Checkpoint,
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    options: MergeOptions,
    *,
    is_stochastic: bool,
) -> MergeReport:
    """The report of a merge that can be made in place, as it is before anything is computed.

    Raises:
        UnsupportedError: the merged model would have other tensors, or other files beside them.
        LoratoolsError: the adapters cannot be merged: see `plan_merge`.
    """
    plan = plan_merge(base, adapters, weights, options)
    beside = companions(base, adapters)
    plan = with_pad_token(plan, beside)
    for reason in (*_other_tensors(plan), *_other_files(plan, beside, options)):
        raise UnsupportedError(
            f"{base.where}: {reason}, and a swap changes numbers only",
            hint=f"{merging()} writes this model",
        )
    return MergeReport(
        plan=plan,
        output=base.where,
        files={shard.name: shard.file.size for shard in base.shards},
        fidelity={},
        left_out=(),
        beside=(*beside.notes, *_notes_on_hashes(base)),
        is_stochastic=is_stochastic,
        is_in_place=True,
    )


def _notes_on_hashes(base: Checkpoint) -> Iterator[str]:
    """A note for each file whose metadata has hashes, which a swap leaves as they are."""
    for shard in base.shards:
        if names := list(placeholders(shard.metadata)):
            yield f"{shard.name}: {listing(names)}: of the model without adapters, and left so"


def _other_tensors(plan: MergePlan) -> Iterator[str]:
    """Why the merged model's tensors would not have the names, dtypes and shapes of the base's."""
    if plan.untied is not None:
        yield f"{plan.untied.head} would be stored by itself from then on"
    if plan.vocabulary is not None:
        yield f"the vocabulary would change from {plan.vocabulary[0]} to {plan.vocabulary[1]} rows"
    if plan.head is not None:
        yield "the model would get another head"
    if names := [tensor.name for tensor in plan.tensors.values() if not _fits(tensor)]:
        yield f"{listing(names)} would be new, or of another dtype or shape"


def _fits(tensor: PlannedTensor) -> bool:
    """Whether a tensor takes the place of the base's own, byte for byte."""
    base = tensor.base
    return (
        base is not None
        and tensor.is_own
        and not tensor.is_renamed
        and (tensor.dtype, tensor.shape) == (base.dtype, base.shape)
    )


def _other_files(plan: MergePlan, beside: Companions, options: MergeOptions) -> Iterator[str]:
    """Why the files beside the merged weights would not be the base's."""
    if configs := corrected_configs(plan, options.dtype):
        yield f"{listing(configs)} would change"
    folder = plan.base.path
    assert folder is not None, plan.base.where
    new = {name: file for name, file in beside.copied.items() if file.path != folder / name}
    contents = {name: file.read(0, file.size) for name, file in new.items()} | dict(beside.made)
    if names := [name for name, data in contents.items() if _content(folder, name) != data]:
        yield f"{listing(names)} would be new or change"


def _content(folder: Path, name: str) -> bytes | None:
    if not (folder / name).is_file():
        return None
    file = InputFile(folder / name, folder=folder)
    return file.read(0, file.size)
