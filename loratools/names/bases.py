"""Compares the base that an adapter names with others, and words the notes if they differ.

A base can be named by a path, by its name on the Hub, or by a file in the Hub's cache.
"""

import re
from collections.abc import Sequence

from loratools.adapter import Adapter
from loratools.io.checkpoint import Checkpoint

_CACHED = re.compile(r"(?:^|/)models--(?:[^/]+?--)?([^/]+)/snapshots(?:/|$)")
_ON_THE_HUB = re.compile(r"hf://[^/]+/([^/@]+)")
_FILE = re.compile(r"\.(safetensors|ckpt|pth?|bin)$")


def short_name(name: str) -> str:
    """The name of a base without its owner or folder, in lower case, for comparison.

    It is empty if nothing is left.

    >>> short_name("meta-llama/Llama-2-7b"), short_name("~/hub/models--gpt2/snapshots/607a30d/")
    ('llama-2-7b', 'gpt2')
    """
    path = name.replace("\\", "/").rstrip("/")
    found = _ON_THE_HUB.match(path) or _CACHED.search(path)
    last = found[1] if found else path.rpartition("/")[2]
    return _FILE.sub("", last.lower()).strip(".~")


def is_telling(name: str) -> bool:
    """Whether a name identifies a model on the Hub, and is not just some local path."""
    return _ON_THE_HUB.match(name) is not None or _CACHED.search(name) is not None


def is_file(name: str) -> bool:
    """Whether the name of a base is that of a file of weights."""
    return _FILE.search(name) is not None


def different_bases(adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """A note if the adapters name different bases.

    The hash of the base's file decides if all adapters have one, else the last part of the name. A
    file's name, a model's and a family's are of different kinds: only names of one kind are
    compared.
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
    """A note if the base that an adapter names is another than `base`.

    A base is identified by its config, by its name on the Hub, and by the hash of its file if that
    is in the Hub's cache. A local folder's name can confirm that the base is the right one, but
    cannot show that it is another.
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
    """The SHA-256 of a base that is a single file in the Hub's cache, which names blobs by it."""
    if base.is_folder or base.overlays:
        return None
    blob = base.shards[0].file.path.resolve()
    is_hash = blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name)
    return blob.name if is_hash else None
