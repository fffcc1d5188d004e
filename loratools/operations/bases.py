"""What is to be said where adapters, or an adapter and a base, name different bases."""

from collections.abc import Sequence

from loratools.adapter import Adapter
from loratools.io.checkpoint import Checkpoint
from loratools.names.bases import is_file, is_telling, short_name


def different_bases(adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """A note if the adapters do not name one base.

    The hash of its file decides where it is known; else the last part of the name.
    """
    named = [adapter for adapter in adapters if adapter.provenance.base]
    hashes = [adapter.provenance.base_hash for adapter in named]
    if all(hashes):
        differ = len(set(hashes)) > 1
    else:
        differ = len({short_name(adapter.provenance.base or "") for adapter in named}) > 1
    if not differ:
        return ()
    names = ", ".join(f"{adapter.provenance.base!r} ({adapter.where})" for adapter in named)
    return (f"the adapters name different bases: {names}; check that they are one model",)


def another_base(adapter: Adapter, base: Checkpoint) -> str | None:
    """A note if an adapter names another base than this one calls itself.

    A base calls itself by its config and by its name on the Hub. A folder's name tells nothing but
    that it is the right one.
    """
    named = adapter.provenance.base
    if not named:
        return None
    where = str(base.path or base.where)
    own = (base.config or {}).get("_name_or_path")
    said = [own] if isinstance(own, str) and short_name(own) else []
    said += [name for name in (base.where, where) if is_telling(name)]
    if is_file(named):
        said = [] if base.is_folder else [where]
    if not said or short_name(named) in map(short_name, [*said, base.where, where]):
        return None
    return (
        f"{adapter.where}: names {named!r} as its base, and this one calls itself {said[0]!r}; "
        f"check that they are one model"
    )
