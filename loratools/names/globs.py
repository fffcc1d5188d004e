"""Globs that choose targets, and what was probably meant by one that chooses nothing.

A glob is matched with the whole name of a tensor, and with that of its module: `*.q_proj` means the
weight and the bias of every such module.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from typing import final

from loratools.errors import MatchError, shorten

#: What a glob may have been meant as, in the order in which people forget it.
_MEANT = ("{}.*", "{}*", "*.{}", "*.{}.*", "*{}*")
#: Comparing a glob with every name of a large model takes minutes.
_COMPARED = 500


def matches(glob: str, *names: str) -> bool:
    """Whether a glob matches one of the names of a tensor, or that of its module."""
    return any(
        fnmatchcase(name, glob) or fnmatchcase(name.rpartition(".")[0], glob) for name in names
    )


def no_match(glob: str, names: Collection[str], *, option: str | None = None) -> MatchError:
    """The error of a glob that matches none of the names: with the nearest, or what was meant.

    `option` is the one on the command line that the glob was given with.
    """
    given = f"{option} {glob!r}" if option else repr(glob)
    meant = next(
        (m for form in _MEANT if any(matches(m := form.format(glob), name) for name in names)), None
    )
    if meant is not None:
        return MatchError(f"{given} matches no target; did you mean {meant!r}?")
    near = [shorten(name) for name in _nearest(glob, names)]
    return MatchError(
        f"{given} matches no target; nearest: {', '.join(near)}"
        if near
        else f"{given} matches no target; there are none"
    )


@final
class Selection:
    """What the globs of `--only` and `--skip` choose, one tensor after another.

    It keeps what it was asked about, to tell in the end whether a glob has matched nothing.
    """

    def __init__(self, only: Sequence[str], skip: Sequence[str]) -> None:
        self._only = tuple(only)
        self._skip = tuple(skip)
        self._used: set[tuple[str, str]] = set()
        self._seen: dict[str, None] = {}

    def takes(self, *names: str) -> bool:
        """Whether the tensor that has these names is wanted."""
        if not (self._only or self._skip):
            return True
        self._seen |= dict.fromkeys(names)
        chosen, skipped = (
            self._hit(option, globs, names)
            for option, globs in (("--only", self._only), ("--skip", self._skip))
        )
        return (chosen or not self._only) and not skipped

    def _hit(self, option: str, globs: Sequence[str], names: Sequence[str]) -> bool:
        hits = [(option, glob) for glob in globs if matches(glob, *names)]
        self._used.update(hits)
        return bool(hits)

    def check_used(self, untouched: Collection[str] = ()) -> None:
        """Refuse globs that have matched nothing.

        `untouched` are further names that may be skipped: nothing happens to them anyway.

        Raises:
            MatchError: a glob has matched nothing; the nearest names are in the message.
        """
        for option, globs, names in (("--only", self._only, ()), ("--skip", self._skip, untouched)):
            for glob in globs:
                is_used = (option, glob) in self._used
                if not is_used and not any(matches(glob, name) for name in names):
                    raise no_match(glob, self._seen, option=option)


def _nearest(glob: str, names: Iterable[str]) -> list[str]:
    """Three names, by their likeness to what a glob says apart from wildcards.

    Of names that differ in their numbers alone the first stands for all.
    """
    forms: dict[str, str] = {}
    for name in names:
        forms.setdefault(re.sub(r"\d+", "0", name), name)
    wanted = re.split(r"[._]", re.sub(r"[*?\[\]]", "", glob).strip("._"))
    pool = list(forms.values())[:_COMPARED]
    return sorted(pool, key=lambda name: -_likeness(wanted, re.split(r"[._]", name)))[:3]


def _likeness(wanted: Sequence[str], parts: Sequence[str]) -> float:
    """How similar the words of a glob are to as many that follow each other in a name."""
    windows = range(max(1, len(parts) - len(wanted) + 1))
    return max(
        SequenceMatcher(None, ".".join(wanted), ".".join(parts[w : w + len(wanted)])).ratio()
        for w in windows
    )
