"""Pairs the tensors of a fine-tuned model with those of its base, by their names."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from loratools.errors import MatchError, shorten
from loratools.extracting.in_folders import in_folder, not_in_folder
from loratools.extracting.order import order_notes
from loratools.formats import Dialect, dialect_named
from loratools.io.checkpoint import Checkpoint
from loratools.io.dtypes import FLOATS
from loratools.io.picked import Picked
from loratools.io.source import Stored
from loratools.io.values import same_bytes
from loratools.names.averaged import averaged_note, is_averaged
from loratools.names.globs import matches
from loratools.names.matching import BaseNames
from loratools.names.packed import Packed, packed_in
from loratools.names.tied import find_tied_head, has_head, is_classifier
from loratools.names.wrappers import plain_names, renaming

#: The prefix of PEFT's wrapper around a whole model, which the model's own names do not have.
_AROUND = "base_model."
#: Tensors that some programs store and others compute again: positions, masks, frequencies.
_MADE = re.compile(r"(rotary_emb\.inv_freq|position_ids|\.masked_bias|attn(ention)?\.bias)$")


@final
@dataclass(frozen=True)
class Pair:
    """A parameter that both models have.

    Attributes:
        target: the parameter's name in the model that an adapter is put on.
        names: the stored names in the tuned model and in the base. Other pairs may have the same
            ones: they are other rows of the stored tensors.
        after: the tuned model's tensor.
        before: the base's tensor.
        twin: another target that is the same tensor in both models: the embedding for a tied head.
        packed: how it is stored, if it is part of a packed weight in one of the models.
    """

    target: str
    names: tuple[str, str]
    after: Stored | Picked
    before: Stored | Picked
    twin: str | None = None
    packed: str | None = None

    @property
    def is_float(self) -> bool:
        """Whether the numbers of both can be computed with."""
        are_floats = {self.after.dtype, self.before.dtype} <= set(FLOATS)
        return are_floats and self.packed is None

    def matches(self, globs: Sequence[str]) -> bool:
        """Whether one of the parameter's names matches one of the globs."""
        return any(matches(glob, self.target, *self.names) for glob in globs)

    def forget(self) -> None:
        """Say that the tensors will not be read again soon; see `InputFile.forget`."""
        for tensor in (self.after, self.before):
            tensor.forget()


@final
@dataclass(frozen=True)
class Pairing:
    """All parameters of a fine-tuned model and its base.

    Attributes:
        pairs: parameters of both models, by target, in the order of names.
        new: the tensors that only the tuned model has.
        missing: the names of tensors that only the base has.
        config: the config of the base, or else of the tuned model.
        entangled: an embedding that is tied to more than a head; None if there is none.
        notes: remarks on the files and names of the two models.
        is_pipeline: whether the targets begin with the names of diffusers' components.
        packed: the packed weights of the tuned model and of the base.
    """

    tuned: Checkpoint
    base: Checkpoint
    pairs: Mapping[str, Pair]
    new: Mapping[str, Stored | Picked]
    missing: tuple[str, ...]
    config: Mapping[str, Any] | None
    entangled: str | None
    notes: tuple[str, ...]
    packed: tuple[Packed, Packed]
    is_pipeline: bool

    @property
    def dialect(self) -> Dialect:
        """The dialect of the adapter: PEFT's for one model, diffusers' for a pipeline."""
        return dialect_named("diffusers" if self.is_pipeline else "peft")


def pair_up(tuned: Checkpoint, base: Checkpoint) -> Pairing:
    """Match the tensors of two models by name.

    Raises:
        MatchError: a tensor fits several tensors of the other model, or two fit the same one.
    """
    config = base.config or tuned.config
    after, before, is_pipeline = _read(tuned, base, config)
    plain = plain_names(after, tuned.where), plain_names(before, base.where)
    found, new = _match(tuned, plain, after, before)
    # Targets have the names of the model's class: one with a head has the base model inside, so
    # that its names have a prefix.
    is_nested = has_head(config) or is_classifier(tuned.config)
    packed = packed_in(tuned), packed_in(base)
    pairs = {
        target: replace(
            pair,
            names=(pair.after.name, pair.before.name) if is_pipeline else pair.names,
            packed=_packed(pair, packed),
        )
        for target, pair in _pairs(found, plain, after, before, is_nested=is_nested).items()
    }
    taken = set(found.values())
    return Pairing(
        tuned=tuned,
        base=base,
        pairs=pairs,
        new={plain[0][name]: after[name] for name in new},
        missing=tuple(
            name for name in sorted(before, key=natural) if name not in taken and not _is_made(name)
        ),
        config=config,
        entangled=_entangled(pairs, config),
        notes=(
            *order_notes(tuned, base),
            *_notes(tuned, plain[0]),
            *_notes(base, plain[1]),
            *(f"{base.where}: {note}" for note in ([] if is_pipeline else not_in_folder(before))),
        ),
        packed=packed,
        is_pipeline=is_pipeline,
    )


def _notes(model: Checkpoint, plain: Mapping[str, str]) -> Iterator[str]:
    said = [*model.notes, *averaged_note(model.tensors, "are not compared")]
    said += filter(None, [renaming(plain)])
    return (f"{model.where}: {note}" for note in said)


def natural(name: str) -> list[tuple[int, str]]:
    """A sorting key for names that puts layer 10 after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _read(
    tuned: Checkpoint, base: Checkpoint, config: Mapping[str, Any] | None
) -> tuple[Mapping[str, Stored | Picked], Mapping[str, Stored | Picked], bool]:
    """The tensors of both models by name, and whether the names are those of two pipelines."""
    after = _all_tensors(tuned, tuned.config or config)
    before = _all_tensors(base, config)
    _add_heads(after, before, tuned, base, config)
    own, of_base = in_folder(tuned, after), in_folder(base, before)
    if own is None or of_base is None:
        return after, before, False
    return own, of_base, True


def _all_tensors(model: Checkpoint, config: Mapping[str, Any] | None) -> dict[str, Stored]:
    """The tensors of a model by name; a stored copy of the embedding counts as the embedding."""
    tensors = {n: tensor for n, tensor in model.tensors.items() if not is_averaged(n)}
    tied = find_tied_head(tensors, config)
    if tied is None or not tied.separable or not tied.stored:
        return tensors
    if same_bytes(tensors[tied.head], tensors[tied.embedding]):
        tensors[tied.head] = tensors[tied.embedding]
    return tensors


def _add_heads(
    after: dict[str, Stored],
    before: dict[str, Stored],
    tuned: Checkpoint,
    base: Checkpoint,
    config: Mapping[str, Any] | None,
) -> None:
    """Add heads that are tied and therefore not stored, if the model has a head at all."""
    ends = [
        (tensors, find_tied_head(tensors, model.config or config))
        for tensors, model in ((after, tuned), (before, base))
    ]
    wanted = has_head(config) or any(tied is not None and tied.stored for _, tied in ends)
    for tensors, tied in ends:
        if wanted and tied is not None and tied.separable:
            tensors.setdefault(tied.head, tensors[tied.embedding])


def _match(
    tuned: Checkpoint,
    plain: tuple[Mapping[str, str], Mapping[str, str]],
    after: Mapping[str, Stored | Picked],
    before: Mapping[str, Stored | Picked],
) -> tuple[dict[str, str], list[str]]:
    """The base's name for each name of the tuned model, and the names without a counterpart."""
    stored_as = {short: name for name, short in plain[1].items()}
    names = BaseNames({plain[1][name]: stored.shape for name, stored in before.items()})
    found: dict[str, str] = {}
    new = []
    owners: dict[str, str] = {}
    for name in sorted(after, key=natural):
        match = names.match_name(plain[0][name])
        if match is None:
            if not _is_made(name):
                new.append(name)
            continue
        of = stored_as[match.name]
        if of in owners:
            raise MatchError(
                f"{tuned.where}: {shorten(owners[of])} and {shorten(name)} both mean "
                f"{shorten(of)} of the base",
                tensor=owners[of],
            )
        owners[of] = name
        found[name] = of
    return found, new


def _pairs(
    found: Mapping[str, str],
    plain: tuple[Mapping[str, str], Mapping[str, str]],
    after: Mapping[str, Stored | Picked],
    before: Mapping[str, Stored | Picked],
    *,
    is_nested: bool,
) -> dict[str, Pair]:
    """The pairs by target; tensors that are one object in both models become twins."""
    pairs: dict[str, Pair] = {}
    firsts: dict[tuple[int, int], str] = {}
    for name, of in found.items():
        stored = after[name], before[of]
        target = _target(plain[0][name], plain[1][of], is_nested=is_nested)
        # Of an embedding and its tied head, the embedding is stored under its own name.
        key = id(stored[0]), id(stored[1])
        is_own = stored[0].name == name and stored[1].name == of
        firsts.setdefault(key, target)
        if is_own:
            firsts[key] = target
        pairs[target] = Pair(target, (name, of), *stored)
    return {
        target: Pair(target, p.names, p.after, p.before, None if first == target else first)
        for target, p in pairs.items()
        for first in (firsts[id(p.after), id(p.before)],)
    }


def _packed(pair: Pair, packed: tuple[Packed, Packed]) -> str | None:
    """How a parameter is stored in the first of the models that has it packed."""
    stored = zip(packed, (pair.after.name, pair.before.name), strict=True)
    return next((model.described(name) for model, name in stored if model.holds(name)), None)


def _target(name: str, of: str, *, is_nested: bool) -> str:
    """Of two names that differ by a prefix, the one of the module in the model that is adapted.

    A model that is nested in the class for a task has the longer names.
    """
    names = [n for n in (name, of) if not n.startswith(_AROUND)] or [name, of]
    return max(names, key=len) if is_nested else min(names, key=len)


def _is_made(name: str) -> bool:
    """Whether a tensor is one that programs can compute again, and need not store."""
    return _MADE.search(name) is not None


def _entangled(pairs: Mapping[str, Pair], config: Mapping[str, Any] | None) -> str | None:
    tied = find_tied_head(pairs, config)
    return tied.embedding if tied and not tied.separable and has_head(config) else None
