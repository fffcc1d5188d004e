"""Whether two names of a base may mean one model: paths, names on the Hub, files of its cache."""

import re

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
