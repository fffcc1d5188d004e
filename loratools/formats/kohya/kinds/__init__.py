"""How kohya's files store each kind of update: a codec a kind, found by its file.

A codec is the object `CODEC` of its module. It states the parts of a module that are one update,
and goes both ways, from tensors to a change and back. Names, alphas and metadata are the same for
all kinds, and are read and written by this dialect.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple, final

from loratools.deltas import Delta
from loratools.deltas.lora import Scaling
from loratools.formats.kohya.alphas import ALPHA, read_scaling
from loratools.io.source import Source


@final
class StoredModule(NamedTuple):
    """The tensors of one module, by what follows its name in their keys; `name` is for messages."""

    name: str
    parts: Mapping[str, Source]

    def scaling(self, rank: int) -> Scaling:
        """The scaling of the module's alpha.

        Raises:
            FormatError: the alpha is not a single finite number.
        """
        return read_scaling(f"{self.name}.{ALPHA}", self.parts.get(ALPHA), rank=rank)


class Codec(ABC):
    """A kind of update to the weight of a module."""

    #: The parts, besides an alpha, of which a module has all: one set or another.
    forms: ClassVar[tuple[tuple[str, ...], ...]]
    #: Parts that only kohya's files have, whatever a module is called.
    marks: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def takes(self, delta: Delta) -> bool:
        """Whether a change is of this kind."""

    @abstractmethod
    def decode(self, module: StoredModule) -> Delta:
        """The change of a module that has one of the forms.

        Raises:
            FormatError: a tensor is not one that an update could have.
            ShapeMismatchError: the tensors do not fit each other.
        """

    @abstractmethod
    def encode(self, delta: Delta) -> Iterator[tuple[str, Source]]:
        """The tensors of a change, by part, without its alpha."""

    @abstractmethod
    def rank(self, delta: Delta) -> int:
        """The rank that readers divide the stored alpha by."""
