"""Which base an adapter was trained on, by the names of both, and what is said where they differ.

Names of a base are paths, names on the Hub, and files of its cache.
"""

import re
from collections.abc import Sequence

from loratools.adapter import Adapter
from loratools.io.checkpoint import Checkpoint

_CACHED = re.compile(r"(?:^|/)models--(?:[^/]+?--)?([^/]+)/snapshots(?:/|$)")
_ON_THE_HUB = re.compile(r"hf://[^/]+/([^/@]+)")
_FILE = re.compile(r"\.(safetensors|ckpt|pth?|bin)$")


def short_name(name: str) -> str:
    """A base's name without its owner or folder, for comparison; empty if it has none.

    >>> short_name("meta-llama/Llama-2-7b"), short_name("~/hub/models--gpt2/snapshots/607a30d/")
    ('llama-2-7b', 'gpt2')
    """
    path = name.replace("\\", "/").rstrip("/")
    found = _ON_THE_HUB.match(path) or _CACHED.search(path)
    last = found[1] if found else path.rpartition("/")[2]
    return _FILE.sub("", last.lower()).strip(".~")


def is_telling(name: str) -> bool:
    """Whether a name says which model it is, and not only where somebody has put it."""
    return _ON_THE_HUB.match(name) is not None or _CACHED.search(name) is not None


def is_file(name: str) -> bool:
    """Whether a base is named by its file of weights."""
    return _FILE.search(name) is not None


def different_bases(adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """A note if the adapters do not name one base.

    The hash of its file decides where it is known; else the last part of its name. A file, a model
    and a family of models have names of their own, which are not compared with each other.
    """
    origins = [adapter.provenance for adapter in adapters]
    hashes = [origin.base_hash for origin in origins if origin.base or origin.base_hash]
    if hashes and all(hashes):
        differ = len(set(hashes)) > 1
    else:
        bases = [origin.base for origin in origins if origin.base and short_name(origin.base)]
        files = {short_name(base) for base in bases if is_file(base)}
        models = {short_name(base) for base in bases if not is_file(base)}
        families = {origin.family for origin in origins if origin.family}
        differ = max(map(len, (files, models, families))) > 1
    if not differ:
        return ()
    named = [(a.provenance.base or a.provenance.family, a.where) for a in adapters]
    listed = ", ".join(f"{name!r} ({where})" for name, where in named if name)
    return (f"the adapters name different bases: {listed}; check that they are one model",)


def another_base(adapter: Adapter, base: Checkpoint) -> str | None:
    """A note if an adapter names another base than this one calls itself.

    A base calls itself by its config, by its name on the Hub, and by the hash of its file where the
    Hub's cache knows it. A folder's name tells nothing but that it is the right one.
    """
    named = adapter.provenance.base
    if not named or not short_name(named):
        return None
    check = "check that they are one model"
    hashes = adapter.provenance.base_hash, _known_hash(base)
    if all(hashes):
        if hashes[0] == hashes[1]:
            return None
        return f"names {named!r} as its base, with another SHA-256 than this file has; {check}"
    where = str(base.path or base.where)
    own = (base.config or {}).get("_name_or_path")
    said = [own] if isinstance(own, str) and short_name(own) else []
    said += [name for name in (base.where, where) if is_telling(name)]
    if is_file(named):
        said = [] if base.is_folder else [where]
    if not said or short_name(named) in map(short_name, [*said, base.where, where]):
        return None
    return f"names {named!r} as its base, and this one calls itself {said[0]!r}; {check}"


def _known_hash(base: Checkpoint) -> str | None:
    """The SHA-256 of a base that is a single file, by which the Hub's cache calls it."""
    if base.is_folder:
        return None
    blob = base.shards[0].file.path.resolve()
    is_hash = blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name)
    return blob.name if is_hash else None
