"""The modules of an adapter that is written in PEFT's format: their keys, paths and alphas."""

import math
from collections.abc import Sequence

from loratools.adapter import Adapter
from loratools.deltas.lora import Rule, Scaling
from loratools.errors import UnsupportedError, shorten
from loratools.formats._peft.codecs import Codecs
from loratools.formats._peft.keys import OUT_PROJ_TIMES
from loratools.formats._peft.kinds import KindCodec, WrittenModule
from loratools.parts import Update

_IN_PROJ = ".in_proj_weight"


def common_kind(adapter: Adapter, codecs: Codecs) -> KindCodec | None:
    """The codec of the one kind of update that an adapter has; None where it has no updates.

    Raises:
        UnsupportedError: there are several kinds, which no config of PEFT can announce together.
    """
    found = {kind for update in adapter.updates.values() if (kind := _kind(codecs, update))}
    if len(found) > 1:
        raise UnsupportedError(
            f"{adapter.where}: PEFT has one kind of update in an adapter, and this has "
            f"{', '.join(adapter.kinds)}"
        )
    return next(iter(found), None)


def common_rule(adapter: Adapter, codecs: Codecs) -> Rule:
    """The scaling rule for the config: alpha / sqrt(rank) only if every update has that rule."""
    if codecs.type.scaling is None or codecs.type.scaling.sqrt_rank is None:
        return "rank"
    rules = {
        update.delta.scaling.rule
        for update in adapter.updates.values()
        if update.delta.scaling is not None and _kind(codecs, update)
    }
    return "sqrt_rank" if rules == {"sqrt_rank"} else "rank"


def modules_of(
    adapter: Adapter, codecs: Codecs, kind: KindCodec | None, rule: Rule
) -> tuple[WrittenModule, ...]:
    """The modules whose weights have updates, in the adapter's order.

    Raises:
        UnsupportedError: PEFT cannot store one of the updates.
    """
    updates = adapter.updates
    attention = {t.removesuffix(_IN_PROJ) for t in updates if t.endswith(_IN_PROJ)}
    modules = [
        _module(adapter, target, update, kind, rule, attention)
        for target, update in updates.items()
        if kind is not None and kind.takes(update.delta) and _is_weight(target)
    ]
    _check_paths(adapter, modules)
    _refuse_others(adapter, codecs, kind, modules)
    return tuple(modules)


def _kind(codecs: Codecs, update: Update) -> KindCodec | None:
    return next((kind for kind in codecs.kinds if kind.takes(update.delta)), None)


def _is_weight(target: str) -> bool:
    return target.endswith((".weight", _IN_PROJ))


def _module(
    adapter: Adapter,
    target: str,
    update: Update,
    kind: KindCodec,
    rule: Rule,
    attention: set[str],
) -> WrittenModule:
    if update.is_shared:
        raise UnsupportedError(
            f"{adapter.where}: {shorten(target)}: an update of the embedding and of the head that "
            f"is tied to it, and PEFT's would act on the embedding alone",
            tensor=target,
        )
    times = 1
    if target.endswith(_IN_PROJ):
        path = key = target.removesuffix(_IN_PROJ)
        bias = f"{path}.in_proj_bias"
    else:
        path = key = target.removesuffix(".weight")
        bias = f"{path}.bias"
        outer = path.removesuffix(".out_proj")
        if outer != path and outer in attention:
            path, key, times = outer, f"{outer}.base_layer.out_proj", OUT_PROJ_TIMES
    rank, scaling = kind.rank(update.delta), update.delta.scaling
    return WrittenModule(
        where=adapter.where,
        path=path,
        key=key,
        target=target,
        bias=bias,
        update=update,
        updates=adapter.updates,
        times=times,
        rank=rank,
        alpha=1.0 if scaling is None else _alpha(scaling, rank, rule, times),
    )


def _alpha(scaling: Scaling, rank: int, rule: Rule, times: int) -> float:
    """The alpha with which PEFT, by this rule and at this rank, gets the update's scaling.

    The alpha that was read is returned as it is where nothing has changed: computing it from the
    scaling could round it.
    """
    if (scaling.rule, scaling.rank, scaling.times) == (rule, rank, times):
        return scaling.alpha
    divisor = math.sqrt(rank) if rule == "sqrt_rank" else rank
    return scaling.value / times * divisor


def _check_paths(adapter: Adapter, modules: Sequence[WrittenModule]) -> None:
    """Refuse an attention whose projections, which have one path in PEFT, differ in a setting."""
    found: dict[str, tuple[int, float]] = {}
    for module in modules:
        settings = (module.rank, module.alpha)
        if found.setdefault(module.path, settings) != settings:
            raise UnsupportedError(
                f"{adapter.where}: {shorten(module.path)}: PEFT gives the projections of an "
                f"attention one rank and one alpha, and these differ",
                tensor=module.path,
            )


def _refuse_others(
    adapter: Adapter, codecs: Codecs, kind: KindCodec | None, modules: Sequence[WrittenModule]
) -> None:
    """Refuse an update that neither a kind's codec nor one for a part beside it would write."""
    stored = {target for module in modules if kind for target in kind.targets(module)}
    beside = {
        target
        for codec in codecs.beside
        for module in modules
        if (target := codec.target(module))
        and (update := adapter.updates.get(target))
        and codec.takes(update.delta)
    }
    for target, update in adapter.updates.items():
        if target in stored or target in beside:
            continue
        what = f"PEFT has no place for a {update.delta.kind}"
        if _kind(codecs, update) and not _is_weight(target):
            what = "not a module's weight"
        elif any(codec.takes(update.delta) for codec in codecs.beside):
            what += f" without a {codecs.type.title} on the same module"
        raise UnsupportedError(f"{adapter.where}: {shorten(target)}: {what}", tensor=target)
