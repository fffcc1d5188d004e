"""Every deliberate error of loratools.

LoratoolsError
├── FormatError             a file is malformed, or is not what it claims to be
├── UnsupportedError        understood, and refused: what it asks for cannot be done exactly
│   └── NotAnAdapterError   a file is known and is no adapter: a checkpoint, a textual inversion
├── MatchError              adapter and base do not fit: a name or a shape without a counterpart
│   ├── ShapeMismatchError
│   └── TargetError         an adapter has no such target, or several; it is also a KeyError
├── NonFiniteError          a NaN or an infinity, read or made
├── OutputError             the output may not be written there
├── OptionError             an option has a value that it cannot have, or contradicts another one
│   └── ArgumentError       an argument has a type that it cannot have, or there is no such argument
├── HubError                the Hub has no such thing, or refuses it
│   ├── AnswerError         its answer is longer than any that makes sense, or compressed
│   └── ConflictError       a branch has moved on from the expected commit
└── StorageError            the disk, the file system or the memory failed
    └── NetworkError        the Hub cannot be reached, or its answer did not arrive
        └── UnansweredError the Hub may have made a commit or not: nothing says which

A message is one line: where, what is wrong, found and expected; what to do. The parts of it that a
program may want are attributes as well.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Self, final

#: What is said of an empty path, which Python would take for the current folder.
EMPTY_PATH = (
    "an empty text is no path; set the variable that it comes from, or give . for this folder"
)
#: The end of that which is not true for an output, which needs a name of its own.
NO_OUTPUT = ", or give . for this folder"


class LoratoolsError(Exception):
    """Root of all errors raised on purpose. `str` of it is the whole message, on one line.

    Args:
        message: says where, and what is wrong.
        file: what the message begins with, if that is the name of a file.
        tensor: the tensor, or the module, that the message names first, in full: the message may
            shorten it.
        hint: what to do about it; it is added to the message after a semicolon. Without one, it is
            what follows the last semicolon of the message, as in a reason that was kept as a text.

    Attributes:
        file: the path, or the name on the Hub, of the file or folder with which the message begins;
            None if it begins with none.
        tensor: the full name of the tensor, the weight or the module that it is about, or of the
            first of them; None if it is about none.
        hint: what to do; None where there is no advice.
    """

    file: str | None
    tensor: str | None
    hint: str | None

    def __init__(
        self,
        message: str = "",
        *,
        file: object = None,
        tensor: str | None = None,
        hint: str | None = None,
    ) -> None:
        if hint is None and "; " in (message.partition(": ")[2] or message):  # not in a path
            message, _, hint = message.rpartition("; ")
        whole = message if hint is None else f"{message}; {hint}"
        super().__init__(escaped(whole))
        self.file = None if file is None else str(file)
        self.tensor = tensor
        self.hint = None if hint is None else escaped(hint)

    def __reduce__(self) -> tuple[object, ...]:
        made = partial(type(self), file=self.file, tensor=self.tensor, hint=self.hint)
        return made, (self.complaint,)

    @property
    def complaint(self) -> str:
        """The message without the hint."""
        return str(self) if self.hint is None else str(self).removesuffix(f"; {self.hint}")

    def renames(self, path: re.Pattern[str], name: str) -> None:
        """Name a file or folder by another name in the message, and in `file`."""
        self.args = (path.sub(lambda _: escaped(name), str(self)),)
        self.file = self.file and path.sub(lambda _: name, self.file)

    def within(self, file: str, tensor: str | None = None) -> Self:
        """The same error, whose message begins with a file, and the name of a tensor in it."""
        names = file if tensor is None else f"{file}: {shorten(tensor)}"
        about = self.tensor if tensor is None else tensor
        return type(self)(f"{names}: {self.complaint}", file=file, tensor=about, hint=self.hint)


class FormatError(LoratoolsError):
    """A file is malformed, or is not what it claims to be."""


class UnsupportedError(LoratoolsError):
    """The input is understood and refused, with the reason."""


class NotAnAdapterError(UnsupportedError):
    """A file is known, and is something else than an adapter: `what`, as in `a VAE`."""

    @property
    def what(self) -> str:
        """What the file is, in words."""
        return re.split("[:;]", str(self).partition("not an adapter but ")[2])[0]


class MatchError(LoratoolsError):
    """Adapter and base do not fit together."""


class ShapeMismatchError(MatchError):
    """Two tensors that belong together have shapes that do not."""


class TargetError(MatchError, KeyError):
    """An adapter has no target of this name, or the name could mean several of them."""

    def __str__(self) -> str:
        """The message; a `KeyError` alone would put it in quotes."""
        return Exception.__str__(self)


class NonFiniteError(LoratoolsError):
    """A NaN or an infinity in an input, or made by rounding to the output's dtype."""


class OutputError(LoratoolsError):
    """The output exists, is one of the inputs, or would not fit on its disk."""


class OptionError(LoratoolsError):
    """An option has a value that it cannot have, or contradicts another option or an argument."""


class ArgumentError(OptionError, TypeError):
    """An argument of a function of loratools is missing, unknown, or of a wrong type."""


class HubError(LoratoolsError):
    """The Hub has no such thing, or refuses to show or to take it."""


class AnswerError(HubError):
    """An answer of the Hub that is not read to its end: what was asked may have been done."""


class ConflictError(HubError):
    """The head of a branch is not the commit that an order named as its parent."""


class StorageError(LoratoolsError):
    """Reading or writing failed: no space, no permission, a device error, a file that changed."""


class NetworkError(StorageError):
    """The Hub cannot be reached, or its answer did not arrive."""


class UnansweredError(NetworkError):
    """The answer did not arrive, so the Hub may or may not have done what it was asked."""


def named_file(error: LoratoolsError, names: Iterable[str]) -> str | None:
    """The file with which the message of an error begins.

    That is one of the `names`, or is in the folder or the repository that one of them is, or is the
    folder that an output would be in.
    """
    if isinstance(error, OptionError):  # these begin with the name of an option
        return None
    begin, colon, _ = str(error).partition(": ")
    if begin.startswith("hf://") and colon:
        return begin
    ordered = sorted(filter(None, names), key=len, reverse=True)
    parents = [os.path.split(os.path.normpath(name))[0] or os.curdir for name in ordered]
    for name in (*ordered, *parents):
        for spelled in (name, os.path.normpath(name)):
            # After it comes what is wrong, the line of a text, or the rest of a path.
            if found := re.match(rf"{re.escape(escaped(spelled))}([/\\].*?)?(: |, )", str(error)):
                return spelled + (found[1] or "")
    return None


@final
class about:  # noqa: N801 (used like a function)
    """Note the tensor, or its module, in an error that names it in its message.

    A class, as the block is entered for each tensor, and a generator takes four times as long.
    """

    def __init__(self, tensor: str) -> None:
        self._tensor = tensor

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Note the tensor, and leave the error as it is otherwise."""
        if not isinstance(error, LoratoolsError) or error.tensor is not None:
            return
        if escaped(shorten(self._tensor)) in str(error):
            error.tensor = self._tensor


@contextmanager
def errors_of(where: str, file: str | None = None, hint: str | None = None) -> Iterator[None]:
    """Begin the errors of a block with the name of what they are about: a file, or a part of it.

    `file` is the file that it is, or is in, and `hint` the advice for a `FormatError` without one.
    An error that names its file already stays as it is.
    """
    try:
        yield
    except LoratoolsError as error:
        if error.file is not None:
            raise
        said = f"{where}: {error.complaint}"
        advice = error.hint or (hint if isinstance(error, FormatError) else None)
        raise type(error)(said, file=file, tensor=error.tensor, hint=advice) from error


def escaped(text: str) -> str:
    r"""`text` on one line; characters that could move a cursor or reverse text become escapes.

    >>> escaped("two\nlines")
    'two\\nlines'
    """
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    # Cc: control characters; Cf: bidirectional and other invisible marks; Cs: broken names.
    if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return character.encode("unicode_escape", "surrogatepass").decode()
    return character


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number and what it counts: `1 tensor`, `2 tensors`, `3 matrices`, `1 update changes`.

    >>> counted(1, "matrix", "matrices"), counted(0, "tensor")
    ('1 matrix', '0 tensors')
    """
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def either(names: Iterable[str], limit: int | None = None) -> str:
    """Names, one of which is meant, each once: `a, b or c`; of more than `limit`, the first.

    >>> either(["SDXL"]), either(["Chroma", "FLUX.1", "SDXL"], limit=2)
    ('SDXL', 'Chroma, FLUX.1 or others')
    """
    first = list(dict.fromkeys(names))
    *most, last = first if limit is None or len(first) <= limit else [*first[:limit], "others"]
    return f"{', '.join(most)} or {last}" if most else last


def listing(names: Iterable[str], limit: int = 5) -> str:
    """The first `limit` names, shortened, and the number of the others: `a, b and 3 more`.

    >>> listing(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    names = [shorten(name) for name in names]
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def shorten(name: str, limit: int = 120) -> str:
    """`name`, cut in its middle to at most `limit` characters.

    >>> shorten("abcdefghij", limit=5)
    'ab…ij'
    """
    if len(name) <= limit:
        return name
    return f"{name[: limit // 2]}…{name[-(limit // 2) :]}"
