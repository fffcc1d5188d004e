"""The name that was probably meant by one that is not known, for the end of a message."""

from collections.abc import Iterable

#: How alike two words are at least, from 0 to 1: `inspekt` and `inspect` are 0.86.
_ALIKE = 0.6

#: What other programs call the commands and functions, and what people look for. The first that is
#: known counts: `load` opens an adapter in Python, where there is a function for that.
_OTHER_WORDS = {
    "open-adapter": ("open", "load", "read", "load-adapter", "read-adapter", "from-pretrained"),
    "adapter-from-tensors": ("from-tensors", "from-state-dict", "make-adapter", "create-adapter"),
    "inspect": (
        "info",
        "show",
        "describe",
        "view",
        "list",
        "ls",
        "stats",
        "check",
        "print",
        "verify",
    ),
    "merge": ("apply", "fuse", "bake", "load", "merge-and-unload"),
    "svd-extract": ("extract", "diff", "distill"),
    "combine": ("mix", "blend", "add", "sum", "average", "concat", "cat", "merge-adapters"),
    "resize": ("prune", "shrink", "truncate", "compress", "reduce", "rank"),
    "rescale": ("scale", "weight", "alpha", "strength", "repair", "fix"),
    "convert": ("export", "translate", "save", "to"),
    "pull": ("download", "get", "fetch", "clone"),
    "push": ("upload", "publish"),
    "swap": ("switch", "replace", "unload", "unmerge", "unfuse", "remove", "undo", "restore"),
}


def nearest(word: str, known: Iterable[str], alike: float = _ALIKE) -> str | None:
    """The known name most like a word, if any is; case and the sort of dash do not count.

    >>> nearest("svd_extrakt", ["resize", "svd-extract"])
    'svd-extract'
    """
    from difflib import get_close_matches

    plain = {_plain(name): name for name in known}
    found = get_close_matches(_plain(word), plain, n=1, cutoff=alike)
    return plain[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str], alike: float = _ALIKE) -> str:
    """The end of a message about a word that is not known; empty if no name is like it.

    >>> did_you_mean("tie", ["slerp", "ties"])
    "; did you mean 'ties'?"
    """
    found = nearest(word, known, alike)
    return "" if found is None else f"; did you mean {found!r}?"


def meant(word: str, known: Iterable[str]) -> str | None:
    """The known name for which other programs have this word, or else the one most like it.

    >>> meant("extract", ["svd_extract", "ExtractRun"])
    'svd_extract'
    """
    plain = {_plain(name): name for name in known}
    for name, words in _OTHER_WORDS.items():
        if name in plain and _plain(word) in words:
            return plain[name]
    return nearest(word, plain.values())


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
