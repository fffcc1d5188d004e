"""Globs that select targets, and suggestions for a glob that matches nothing.

A glob is matched with the whole name of a tensor, and with the name of its module: `*.q_proj`
selects the weight and the bias of every such module.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from typing import final

from loratools.errors import MatchError, shorten
from loratools.typed import one_of

#: Corrections of a glob that are suggested if they match, the most frequent mistake first.
_MEANT = ("{}.*", "{}*", "*.{}", "*.{}.*", "*{}*")
#: The most names that a glob is compared with; with every name of a large model it takes minutes.
_COMPARED = 500


def matches(glob: str, *names: str) -> bool:
    """Whether a glob matches one of the names of a tensor, or of its module."""
    return any(
        fnmatchcase(name, glob) or fnmatchcase(name.rpartition(".")[0], glob) for name in names
    )


def no_match(glob: str, names: Collection[str], *, option: str | None = None) -> MatchError:
    """The error for a glob that matches no name; it suggests a correction or the nearest names.

    `option` is the name of the option that the glob was given with.
    """
    given = one_of(option, glob) if option else repr(glob)
    meant = next(
        (m for form in _MEANT if any(matches(m := form.format(glob), name) for name in names)), None
    )
    if meant is not None:
        return MatchError(f"{given} matches no target", hint=f"did you mean {meant!r}?")
    near = [shorten(name) for name in _nearest(glob, names)]
    hint = f"nearest: {', '.join(near)}" if near else "there are none"
    return MatchError(f"{given} matches no target", hint=hint)


@final
class Selection:
    """The globs of `--only` and `--skip`, which decide for one tensor after another.

    A selection remembers all names it decided about, to report globs that matched nothing.
    """

    def __init__(self, only: Sequence[str], skip: Sequence[str]) -> None:
        self._only = tuple(only)
        self._skip = tuple(skip)
        self._used: set[tuple[str, str]] = set()
        self._seen: dict[str, None] = {}

    def takes(self, *names: str) -> bool:
        """Whether the tensor that has these names is selected."""
        if not (self._only or self._skip):
            return True
        self._seen |= dict.fromkeys(names)
        chosen, skipped = (
            self._hit(option, globs, names)
            for option, globs in (("only", self._only), ("skip", self._skip))
        )
        return (chosen or not self._only) and not skipped

    def _hit(self, option: str, globs: Sequence[str], names: Sequence[str]) -> bool:
        hits = [(option, glob) for glob in globs if matches(glob, *names)]
        self._used.update(hits)
        return bool(hits)

    def check_used(self, untouched: Collection[str] = ()) -> None:
        """Refuse globs that have matched nothing.

        `untouched` are further names that `--skip` may match, although no verb changes them anyway.

        Raises:
            MatchError: a glob has matched nothing; the nearest names are in the message.
        """
        for option, globs, names in (("only", self._only, ()), ("skip", self._skip, untouched)):
            for glob in globs:
                is_used = (option, glob) in self._used
                if not is_used and not any(matches(glob, name) for name in names):
                    raise no_match(glob, self._seen, option=option)


def _nearest(glob: str, names: Iterable[str]) -> list[str]:
    """The three names that are most similar to a glob without its wildcards.

    Names that differ only in their numbers are represented by the first of them.
    """
    forms: dict[str, str] = {}
    for name in names:
        forms.setdefault(re.sub(r"\d+", "0", name), name)
    wanted = re.split(r"[._]", re.sub(r"[*?\[\]]", "", glob).strip("._"))
    pool = list(forms.values())[:_COMPARED]
    return sorted(pool, key=lambda name: -_likeness(wanted, re.split(r"[._]", name)))[:3]


def _likeness(wanted: Sequence[str], parts: Sequence[str]) -> float:
    """The similarity of a glob's words to the best run of as many words in a name, from 0 to 1."""
    windows = range(max(1, len(parts) - len(wanted) + 1))
    return max(
        SequenceMatcher(None, ".".join(wanted), ".".join(parts[w : w + len(wanted)])).ratio()
        for w in windows
    )
