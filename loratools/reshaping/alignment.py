"""Gives each module one name in all adapters that are to be combined."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from loratools.adapter import Adapter
from loratools.errors import UnsupportedError
from loratools.names.looks import kind_of
from loratools.names.meant_for import meant_for
from loratools.names.spelling import in_diffusers_names, mixes_unets, respelled


def aligned(adapters: Sequence[Adapter]) -> tuple[tuple[Adapter, ...], tuple[str, ...]]:
    """Rename the targets of all adapters as the first one names them; return notes on renamings.

    If some adapters have diffusers' names for a U-Net of Stable Diffusion and others LDM's, all get
    diffusers' names.

    Raises:
        MatchError: it is unclear whether two names mean one module.
    """
    notes = []
    if mixes_unets([_targets(adapter) for adapter in adapters]):
        adapters = [_with_names(a, in_diffusers_names(_targets(a))) for a in adapters]
        notes.append("blocks of the U-Net have diffusers' names, which not all adapters had")
    found = list(adapters[:1])
    reference = dict.fromkeys(name for adapter in found for name in _targets(adapter))
    for adapter in adapters[1:]:
        respelling = respelled(_targets(adapter), reference, adapter.where)
        if respelling.changes:
            notes.append(f"{adapter.where}: its names are read as: {', '.join(respelling.changes)}")
        found.append(_with_names(adapter, respelling.names))
        reference |= dict.fromkeys(respelling.names.values())
    return tuple(found), tuple(notes)


def check_one_model(adapters: Sequence[Adapter]) -> None:
    """Check that some model may have the modules of all adapters, as far as names tell.

    Raises:
        UnsupportedError: two adapters are for different kinds of model, or for image models of
            which none is among those of the other.
    """
    kinds = [kind_of(adapter.updates) for adapter in adapters]
    models = [meant_for(adapter.updates) for adapter in adapters]
    for one, other in combinations(range(len(adapters)), 2):
        is_other_kind = len({kinds[one], kinds[other]} - {None}) > 1
        is_other_model = models[one] and models[other] and not set(models[one]) & set(models[other])
        if is_other_kind or is_other_model:
            said = [" or ".join(models[n]) or str(kinds[n]) for n in (other, one)]
            where = adapters[other].where
            raise UnsupportedError(
                f"{where}: by the names of its modules it is for {said[0]}, and "
                f"{adapters[one].where} for {said[1]}",
                file=where,
                hint="combine adapters of one base",
            )


def strangers(adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """Notes on adapters that have no target in common with any other adapter."""
    owners: dict[str, int] = {}
    for adapter in adapters:
        for target in _targets(adapter):
            owners[target] = owners.get(target, 0) + 1
    return tuple(
        f"{adapter.where}: has no target in common with the other adapters"
        for adapter in adapters
        if len(adapters) > 1 and all(owners[target] == 1 for target in _targets(adapter))
    )


def _targets(adapter: Adapter) -> list[str]:
    return list(dict.fromkeys((*adapter.updates, *adapter.replaced, *adapter.rows)))


def _with_names(adapter: Adapter, names: Mapping[str, str]) -> Adapter:
    if all(name == new for name, new in names.items()):
        return adapter
    return replace(
        adapter,
        updates={names[target]: update for target, update in adapter.updates.items()},
        replaced={names[target]: whole for target, whole in adapter.replaced.items()},
        rows={names[target]: rows for target, rows in adapter.rows.items()},
    )
