"""Objects that answer an attribute that they lack, for those who know other libraries."""

from typing import TYPE_CHECKING, ClassVar, Self

from loratools.errors import ArgumentError, shorten


class Answering:
    """A class whose objects answer an attribute that they lack by the one that was meant."""

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

    if not TYPE_CHECKING:  # which would take every attribute to be there

        def __getattr__(self, name: str) -> object:
            found = None if name.startswith("_") else self._meant(name)
            hint = "" if found is None else f"; {found}"
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")
