"""The name that was probably meant by one that is not known, for the end of a message."""

import re
from collections.abc import Iterable, Mapping, Sequence

from loratools.other_words import VALUES

#: How alike two words are at least, from 0 to 1: `inspekt` and `inspect` are 0.86, and `sample` and
#: `rescale` 0.62.
_ALIKE = 0.65


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name most like a word, if any is; case and the sort of dash do not count.

    >>> nearest("svd_extrakt", ["resize", "svd-extract"])
    'svd-extract'
    """
    from difflib import get_close_matches

    plain = {_plain(name): name for name in known}
    found = get_close_matches(_plain(word), plain, n=1, cutoff=_ALIKE)
    return plain[found[0]] if found else None


def ours(
    word: str, others: Mapping[str, Sequence[str]], known: Iterable[str] | None = None
) -> str | None:
    """Our name for what other programs call so, by a table of `other_words`, if it is known here.

    >>> ours("delta_weight", {"up": ["lora_B"], "update()": ["delta_weight"]})
    'update()'
    """
    plain = {_plain(name): name for name in (others if known is None else known)}
    for name, words in others.items():
        if _plain(name) in plain and _plain(word) in map(_plain, words):
            return plain[_plain(name)]
    return None


def meant(word: str, known: Iterable[str], others: Mapping[str, Sequence[str]]) -> str | None:
    """The known name for which other programs have this word, or else the one most like it.

    >>> meant("extract", ["svd_extract", "ExtractRun"], {"svd-extract": ["extract"]})
    'svd_extract'
    """
    known = list(known)
    return ours(word, others, known) or nearest(word, known)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about a value that is not known; empty if no name is like it.

    A number in it is not misspelt: `float8` is another dtype than `float64`.

    >>> did_you_mean("tie", ["slerp", "ties"])
    "; did you mean 'ties'?"
    """
    known, numbers = list(known), re.findall(r"\d+", word)
    like = [name for name in known if not numbers or re.findall(r"\d+", name) == numbers]
    found = ours(word, VALUES, known) or nearest(word, like)
    return "" if found is None else f"; did you mean {found!r}?"


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def number_meant(text: str) -> str | None:
    """The number that is meant by one with a percent sign or a decimal comma; else None.

    >>> number_meant("70%"), number_meant("0,5"), number_meant("half")
    ('0.7', '0.5', None)
    """
    found = re.fullmatch(r"([-+]?\d*[.,]?\d+)\s*(%?)", text)
    if found is None:
        return None
    number = float(found[1].replace(",", "."))
    return f"{number / 100 if found[2] else number:g}"
