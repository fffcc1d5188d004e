"""Objects that answer an attribute that they lack, for those who know other libraries."""

from abc import ABCMeta
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, Self

from loratools.errors import ArgumentError, shorten
from loratools.nearest import nearest, ours
from loratools.other_words import IN_A_REPORT


class Hinting:
    """A class whose objects answer an attribute that they lack by the one that was meant."""

    def _hint(self, name: str) -> str | None:
        """What to use in place of an attribute that is not there; None if nothing is known."""
        near = nearest(name, [known for known in dir(self) if not known.startswith("_")])
        return near and f"did you mean {near}?"

    if not TYPE_CHECKING:  # which would take every attribute to be there

        def __getattr__(self, name: str) -> object:
            found = None if name.startswith("_") else self._hint(name)
            hint = "" if found is None else f"; {found}"
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")


class _Made(ABCMeta):
    """The type of classes that answer an attribute that they lack by what makes their objects."""

    if not TYPE_CHECKING:

        def __getattr__(cls, name: str) -> object:
            hint = "" if name.startswith("_") else f"; {cls._MADE_BY}"
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}{hint}")


class Answering(Hinting, metaclass=_Made):
    """A class whose objects know what other libraries call their attributes."""

    #: What makes objects of the class, for those who call it with a path.
    _MADE_BY: ClassVar[str]

    def __new__(cls, *args: object, **fields: object) -> Self:
        """An object that is not initialized yet.

        Raises:
            ArgumentError: a path is given, or tensors, and nothing else.
        """
        if len(args) == 1 and not fields:
            raise ArgumentError(
                f"{cls.__name__}: more than {shorten(repr(args[0]), 60)} is needed",
                hint=cls._MADE_BY,
            )
        return super().__new__(cls)

    @classmethod
    def _meant(cls, name: str) -> str | None:
        """What to use in place of an attribute of another library; None if nothing is known."""
        raise NotImplementedError

    def _hint(self, name: str) -> str | None:
        return self._meant(name) or super()._hint(name)


class Reporting(Hinting):
    """A report, or a part of one, that knows where in it people look for what."""

    def _hint(self, name: str) -> str | None:
        found = ours(name, IN_A_REPORT, (place for place in IN_A_REPORT if _has(self, place)))
        return super()._hint(name) if found is None else f"did you mean {found}?"


def _has(report: object, place: str) -> bool:
    """Whether a report has something at a place, such as `certificates.total`."""
    if "(report)" in place:
        return True
    path = place.removesuffix("()")
    if path.partition(".")[0] not in dir(report):  # asking for it would look for a place of it
        return False
    try:
        attrgetter(path)(report)
    except AttributeError:  # as where a report that can have certificates has none
        return False
    return True
