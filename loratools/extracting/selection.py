"""Selects the tensors of two models that are compared, and those of them that are factored."""

from collections.abc import Sequence

from loratools.errors import MatchError, UnsupportedError, shorten
from loratools.extracting.pairing import Pair, Pairing
from loratools.extracting.plan import ExtractOptions, Target
from loratools.names.conv1d import conv1d_weights
from loratools.names.globs import matches, no_match
from loratools.names.looks import example, kind_of
from loratools.names.packed import Packed
from loratools.names.tied import is_embedding, is_lookup
from loratools.typed import as_typed, valued


def comparable(pairing: Pairing, options: ExtractOptions) -> tuple[Pair, ...]:
    """The pairs whose values have to be compared: those of equal shapes.

    Raises:
        MatchError: a tensor is in one model only, or has another shape, and is not skipped; or a
            glob matches no tensor of either model.
        UnsupportedError: a module is to be stored whole, and the adapter has no place for it.
    """
    _check_globs(pairing, options)
    if options.full and pairing.dialect.components:
        raise UnsupportedError(
            f"{pairing.tuned.where}: diffusers loads no whole tensors from the adapter of a "
            f"pipeline, so nothing can be stored with {valued('full')}"
        )
    tuned, base = pairing.packed
    alone = [
        (
            name,
            _packed(name, tuned, base),
            f"the base has no such tensor; {as_typed('skip')} it, or store it whole with "
            f"{valued('full')}",
        )
        for name, stored in pairing.new.items()
        if not Pair(name, (name, name), stored, stored).matches((*options.skip, *options.full))
    ]
    alone += [
        (
            name,
            _packed(name, base, tuned),
            f"the tuned model has no such tensor; {as_typed('skip')} it",
        )
        for name in pairing.missing
        if not matches_any(name, options.skip)
    ]
    if alone:
        _check_related(pairing)
    for name, packed, complaint in alone:
        if not options.only or matches_any(name, options.only):
            more = f" (and {len(alone) - 1} more in one model only)" if len(alone) > 1 else ""
            what, _, advice = (packed or complaint).partition("; ")
            raise MatchError(
                f"{pairing.tuned.where}: {shorten(name)}: {what}{more}", tensor=name, hint=advice
            )
    return tuple(pair for pair in pairing.pairs.values() if _is_comparable(pairing, pair, options))


def _check_related(pairing: Pairing) -> None:
    """Refuse models of which one cannot have been trained from the other.

    Raises:
        MatchError: they have no tensor in common, or are different kinds of model by their names.
    """
    tuned, base = pairing.tuned, pairing.base
    kinds = kind_of(tuned.tensors), kind_of(base.tensors)
    is_other_kind = None not in kinds and kinds[0] != kinds[1]
    has_common = any(pair.after.shape == pair.before.shape for pair in pairing.pairs.values())
    if has_common and not is_other_kind:
        return
    own, of_base = example(tuned.tensors), example(base.tensors)
    what = f"another model: none of its tensors ({own}) is one of {base.where} ({of_base})"
    if is_other_kind:
        what = (
            f"another kind of model: by its names ({own}) it is {kinds[0]}, and the base "
            f"{base.where} ({of_base}) is {kinds[1]}"
        )
    raise MatchError(
        f"{tuned.where}: {what}",
        file=tuned.where,
        hint="name the model that was trained, and then the one that it was trained from",
    )


def _packed(name: str, own: Packed, other: Packed) -> str | None:
    """Why one model has this tensor alone, if that is because a weight is packed in one of them.

    A weight that is packed may be stored under other names: `q.weight` as `q.qweight`, for example.
    """
    if own.holds(name):
        return (
            f"is stored {own.described(name)}, and not so in the other model; {as_typed('skip')} it"
        )
    found = other.or_packed(name, None)
    if found is None:
        return None
    return f"is stored {other.described(found.name)} in the other model; {as_typed('skip')} it"


def _check_globs(pairing: Pairing, options: ExtractOptions) -> None:
    names = [name for pair in pairing.pairs.values() for name in (pair.target, *pair.names)]
    names += [*pairing.new, *pairing.missing]
    for option in ("only", "skip", "full"):
        for glob in getattr(options, option):
            if not any(matches(glob, name) for name in names):
                raise no_match(glob, dict.fromkeys(names), option=option)


def _is_comparable(pairing: Pairing, pair: Pair, options: ExtractOptions) -> bool:
    after, before = pair.after, pair.before
    if after.shape != before.shape:
        if options.selects(pair) and not _is_grown(pair):
            raise MatchError(
                f"{pairing.tuned.where}: {shorten(pair.names[0])} is {list(after.shape)} and "
                f"{list(before.shape)} in the base",
                tensor=pair.names[0],
                hint=f"are both of one kind of model? {as_typed('skip')} it",
            )
        return False
    return True


def matrices(
    pairing: Pairing, differing: Sequence[Pair], options: ExtractOptions
) -> dict[str, Target]:
    """The tensors that become low-rank products, among those that differ."""
    shapes = {target: pair.after.shape for target, pair in pairing.pairs.items()}
    conv1d = conv1d_weights(shapes, pairing.config)
    full = wanted_whole(pairing, options)
    components = pairing.dialect.components
    return {
        pair.target: Target(
            pair,
            is_lookup(pair.target, pair.after.shape[0], pairing.config),
            pair.target in conv1d,
        )
        for pair in differing
        if options.selects(pair)
        and pair.is_float
        and pair.target != pairing.entangled
        and _is_matrix(pair.target, pair.after.shape)
        and pair.target not in full
        and (not components or _is_loaded(pair, components))
    }


def _is_loaded(pair: Pair, components: tuple[str, ...]) -> bool:
    """Whether diffusers loads a LoRA of a target: in these components, and not of embeddings."""
    is_known = pair.target.partition(".")[0] in components
    return is_known and not is_lookup(pair.target, pair.after.shape[0], None)


def wanted_whole(pairing: Pairing, options: ExtractOptions) -> set[str]:
    """The targets that are chosen to be stored whole, and those that share a tensor with them."""
    pairs = pairing.pairs
    full = {target for target, pair in pairs.items() if pair.matches(options.full)}
    heads = {target for target, pair in pairs.items() if pair.twin in full}
    return full | heads | {twin for target in full if (twin := pairs[target].twin)}


def matches_any(name: str, globs: tuple[str, ...]) -> bool:
    """Whether a name matches one of the globs."""
    return any(matches(glob, name) for glob in globs)


def _is_matrix(target: str, shape: tuple[int, ...]) -> bool:
    """Whether PEFT can put a LoRA on a target: not on depthwise convolutions or bare parameters."""
    is_depthwise = len(shape) > 2 and shape[1] == 1
    return target.endswith(".weight") and len(shape) >= 2 and not is_depthwise


def _is_grown(pair: Pair) -> bool:
    return is_embedding(pair.target) and pair.after.shape[1:] == pair.before.shape[1:]
