"""The name that was probably meant by one that is not known, for the end of a message."""

from collections.abc import Iterable

#: How alike two words are at least, from 0 to 1: `inspekt` and `inspect` are 0.86.
_ALIKE = 0.6


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


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
