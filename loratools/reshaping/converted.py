"""Spells an adapter for another format: what is left out, the new names, and what it cannot say."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, final

from loratools.adapter import Adapter
from loratools.errors import UnsupportedError, counted, listing, shorten
from loratools.files.writing import Files
from loratools.formats import Dialect, dialect_named, encode
from loratools.io.bundle import Bundle
from loratools.io.computed import cast
from loratools.io.dtypes import FACTORS, nbytes
from loratools.io.json import json_text
from loratools.io.source import Source
from loratools.names.crossing import Piece
from loratools.names.globs import matches, no_match
from loratools.names.translated import translated
from loratools.parts import Filed
from loratools.reshaping.respelled import respelled
from loratools.typed import as_typed, valued
from loratools.version import __version__

#: The entry of a file's metadata that says where a converted adapter came from.
ORIGIN = "loratools"
#: The beginnings of entries of metadata that are about the training, and stay true.
_OF_TRAINING = ("ss_", "modelspec.")
#: The most reasons in one error.
_REASONS = 4
_Value = TypeVar("_Value")


@final
@dataclass(frozen=True)
class Converted:
    """An adapter with the names of another format.

    Attributes:
        adapter: the adapter, with nothing of the files that it was read from but their metadata.
        names: the new names of each target: several of one that is fused of what they name.
        dropped: the targets and tensors that were left out.
        notes: remarks for the user.
        folded: the new targets whose scalings were multiplied into a factor, in float64.
    """

    adapter: Adapter
    names: Mapping[str, tuple[str, ...]]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]
    folded: frozenset[str] = frozenset()


def converted(
    adapter: Adapter,
    dialect: Dialect,
    base: Mapping[str, tuple[int, ...]] | None,
    drop: Sequence[str],
) -> Converted:
    """Give an adapter the names that a dialect has for its targets.

    `base` are the shapes of a base's parameters, if there is one; `drop` are globs of targets and
    of tensors without effect that are left out.

    Raises:
        MatchError: a glob matches nothing.
        UnsupportedError: the dialect has no name for a target, or the adapter cannot be merged
            exactly.
    """
    adapter.check_usable()
    adapter, dropped = _without(adapter, drop)
    source = dialect_named(adapter.filed.dialect) if adapter.filed is not None else None
    if source is None or (source.name == dialect.name and base is None):
        return _anew(adapter, dialect, dropped)
    found = translated(_shapes(adapter), source.style, dialect.style, base)
    if source.name == dialect.name and _keeps(found.pieces):
        # What stays as it is needs no known name, as the format has it already.
        return _anew(adapter, dialect, dropped)
    count = len(found.pieces) + len(found.refused)
    refuse(adapter.where, dialect, found.refused, count)
    made = respelled(adapter, found.pieces)
    refuse(adapter.where, dialect, made.refused, count)
    carried, notes = _carried(adapter, dialect)
    if made.left_out:
        told = listing(made.left_out)
        notes = (*notes, f"left out, as the update of which they are parts is zero there: {told}")
    return Converted(replace(made.adapter, filed=carried), made.names, dropped, notes, made.folded)


def _keeps(pieces: Mapping[str, Sequence[Piece]]) -> bool:
    """Whether all targets that have a known name keep the one that they have."""
    return all([piece.name for piece in some] == [old] for old, some in pieces.items())


def _anew(adapter: Adapter, dialect: Dialect, dropped: tuple[str, ...]) -> Converted:
    """An adapter that keeps its names."""
    names = {target: (target,) for target in _targets(adapter)}
    note = f"the adapter is in the {dialect.name} format already, and is written anew"
    return Converted(adapter, names, dropped, (note,) if adapter.filed is not None else ())


def encoded(found: Converted, dialect: Dialect, before: str, dtype: str | None) -> Files:
    """The files of an adapter in a dialect, with a word on its origin, and in another dtype.

    `before` is the name of the dialect that it was read in.

    Raises:
        UnsupportedError: the dialect cannot store something in the adapter.
    """
    adapter = found.adapter
    if dtype is not None:
        adapter = _widened(adapter, dtype)
    elif found.folded:
        adapter = _narrowed(adapter, found.folded)
    try:
        bundle = encode(adapter, dialect.name)
    except UnsupportedError:
        why = dict(_refused(adapter, dialect))
        names = found.names.items()
        reasons = {old: why[new] for old, some in names for new in some if new in why}
        refuse(adapter.where, dialect, reasons, len(found.names))
        raise
    if dtype is not None:
        bundle = _in_dtype(bundle, dtype)
    if before != dialect.name:
        told = {"converted_from": before, "version": __version__}
        bundle = replace(bundle, metadata={**bundle.metadata, ORIGIN: json_text(told)})
    return Files(bundle, dialect)


def refuse(where: str, dialect: Dialect, reasons: Mapping[str, str], count: int) -> None:
    """Raise one error for all targets that have a reason; `count` is the number of all targets."""
    if not reasons:
        return
    groups: dict[str, list[str]] = {}
    for target, reason in reasons.items():
        groups.setdefault(reason, []).append(target)
    advice = dict.fromkeys(hint for _, hint in map(_parts, groups) if hint)
    told = ", and ".join(
        f"{listing(names, 3)}: {_parts(why)[0]}" for why, names in [*groups.items()][:_REASONS]
    )
    if len(groups) > _REASONS:
        told += f", and {counted(len(groups) - _REASONS, 'other reason')}"
    what = f"any of the {count} targets" if count > 1 else "the only target"
    if len(reasons) < count:
        what = f"{len(reasons)} of {count} targets, which {valued('drop')} leaves out"
    raise UnsupportedError(
        f"{where}: the {dialect.name} format cannot hold {what}: {told}",
        hint=", or ".join(advice) or None,
    )


def _parts(reason: str) -> tuple[str, str]:
    """What a reason says, and its advice; the latter may be empty."""
    what, _, hint = reason.partition("; ")
    return what, hint


def _targets(adapter: Adapter) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*adapter.updates, *adapter.replaced, *adapter.rows)))


def _shapes(adapter: Adapter) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights that are changed or replaced; of new rows, that of these rows."""
    return {
        **{target: rows.rows.shape for target, rows in adapter.rows.items()},
        **{target: replaced.source.shape for target, replaced in adapter.replaced.items()},
        **{target: update.delta.shape for target, update in adapter.updates.items()},
    }


def _without(adapter: Adapter, drop: Sequence[str]) -> tuple[Adapter, tuple[str, ...]]:
    """The adapter without what globs match, and the names of that."""
    names = (*_targets(adapter), *adapter.inert)
    for glob in drop:
        if not any(matches(glob, name) for name in names):
            raise no_match(glob, names, option="drop")
    dropped = tuple(name for name in names if any(matches(glob, name) for glob in drop))
    if not dropped:
        return adapter, ()

    def kept(some: Mapping[str, _Value]) -> dict[str, _Value]:
        return {name: value for name, value in some.items() if name not in gone}

    gone = frozenset(dropped)
    filed = adapter.filed
    if filed is not None:
        filed = replace(filed, passengers=kept(filed.passengers))
    left = replace(
        adapter,
        updates=kept(adapter.updates),
        replaced=kept(adapter.replaced),
        rows=kept(adapter.rows),
        inert=kept(adapter.inert),
        filed=filed,
    )
    if not _targets(left):
        raise UnsupportedError(f"{adapter.where}: {as_typed('drop')} leaves nothing to convert")
    return left, dropped


def _carried(adapter: Adapter, dialect: Dialect) -> tuple[Filed | None, tuple[str, ...]]:
    """What of the files that were read belongs into those of another dialect, and what is lost."""
    filed = adapter.filed
    assert filed is not None
    training = {k: v for k, v in filed.metadata.items() if k.startswith(_OF_TRAINING)}
    notes = []
    if dialect.is_folder is False:
        without_effect = [key for key in adapter.inert if key not in filed.passengers]
        metadata, passengers = training, filed.passengers
    else:
        without_effect = [*adapter.inert]
        metadata, passengers = {}, {}
        if filed.passengers:
            refuse(
                adapter.where,
                dialect,
                {k: adapter.inert[k].removesuffix(", carried along") for k in filed.passengers},
                len(_targets(adapter)) + len(filed.passengers),
            )
        if training:
            notes.append(f"left out, as it belongs to other formats: {listing(training)}")
    for copy in adapter.copies:
        copy.check(adapter.where)
        without_effect.append(copy.source.keys[0])
    if without_effect:
        notes.append(f"left out, without effect: {listing(without_effect)}")
    carried = Filed(dialect.name, metadata=metadata, passengers=passengers)
    return (carried if metadata or passengers else None), tuple(notes)


def _refused(adapter: Adapter, dialect: Dialect) -> Iterator[tuple[str, str]]:
    """Targets that a dialect cannot store, found by writing each module alone, and the reasons."""
    modules: dict[str, list[str]] = {}
    for target in _targets(adapter):
        modules.setdefault(target.rpartition(".")[0], []).append(target)
    for targets in modules.values():
        alone = replace(
            adapter,
            updates=_only(adapter.updates, targets),
            replaced=_only(adapter.replaced, targets),
            rows=_only(adapter.rows, targets),
        )
        try:
            encode(alone, dialect.name)
        except UnsupportedError as error:
            about = [target for target in targets if shorten(target) in str(error)] or targets
            yield about[0], _without_names(str(error), adapter.where, about[0])


def _without_names(error: str, where: str, target: str) -> str:
    """The reason in an error about a target, which is the same for others of its kind."""
    for name in (target, target.partition(".")[2]):  # diffusers names the component apart
        _, found, reason = error.partition(f"{shorten(name)}: ")
        if found:
            return reason
    return error.removeprefix(f"{where}: ")


def _only(some: Mapping[str, _Value], names: Collection[str]) -> dict[str, _Value]:
    return {name: some[name] for name in names if name in some}


def _widened(adapter: Adapter, dtype: str) -> Adapter:
    """The adapter with its factors in at least 32 bits, so that folding rounds them only once."""
    updates = dict(adapter.updates)
    for target, update in adapter.updates.items():
        lora = update.delta.low_rank
        if lora is not None and any(source.dtype != dtype for source in lora.sources):
            wide = replace(lora, up=_wide(lora.up), down=_wide(lora.down))
            updates[target] = replace(update, delta=update.delta.with_low_rank(wide))
    return replace(adapter, updates=updates)


def _narrowed(adapter: Adapter, folded: Collection[str]) -> Adapter:
    """The adapter with the factors that have a scaling in them in the dtype of the others."""
    updates = dict(adapter.updates)
    for target in folded:
        lora = updates[target].delta.low_rank
        if lora is not None:
            rounded = replace(lora, up=cast(lora.up, lora.down.dtype))
            delta = updates[target].delta.with_low_rank(rounded)
            updates[target] = replace(updates[target], delta=delta)
    return replace(adapter, updates=updates)


def _wide(source: Source) -> Source:
    return source if source.dtype == "F64" else cast(source, "F32")


def _in_dtype(bundle: Bundle, dtype: str) -> Bundle:
    """The files with all floats but alphas, which are single numbers, in another dtype."""
    tensors = {
        key: cast(source, dtype)
        if source.dtype in FACTORS and source.shape not in ((), (1,))
        else source
        for key, source in bundle.tensors.items()
    }
    size = sum(nbytes(source.dtype, source.shape) for source in tensors.values())
    return replace(bundle, tensors=tensors, nbytes=size)
