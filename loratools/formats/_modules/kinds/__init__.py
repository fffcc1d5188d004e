"""How each kind of update is stored among a module's tensors: a codec for each kind.

The codec is the object `CODEC` of the module. It lists the parts that form one update, decodes
their tensors to an update, and encodes an update to tensors. Names, alphas and metadata are the
same for all kinds, and dialects read and write them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple, final

from loratools.deltas import Delta
from loratools.deltas.lora import Scaling
from loratools.formats._modules.alphas import ALPHA, scaling_of
from loratools.io.source import Source


@final
class StoredModule(NamedTuple):
    """The stored tensors of one module.

    Attributes:
        name: the file and the module, for error messages.
        parts: the tensors by the names of their parts, which are kohya's: `lora_up.weight`.
        alpha: the number in the part called `alpha`; None without one, or if it is no number.
    """

    name: str
    parts: Mapping[str, Source]
    alpha: float | None

    def scaling(self, rank: int) -> Scaling:
        """The scaling that the module's alpha gives at this rank; 1 where no alpha is stored.

        Raises:
            FormatError: the alpha is not a single finite number.
        """
        return scaling_of(f"{self.name}.{ALPHA}", self.parts.get(ALPHA), self.alpha, rank=rank)


class Codec(ABC):
    """The way in which one kind of update to a module's weight is stored."""

    #: The sets of parts that can form such an update, without the alpha. A module has all parts of
    #: one set.
    forms: tuple[tuple[str, ...], ...]
    #: The names of parts that only kohya's files have, whatever the module is called.
    marks: ClassVar[tuple[str, ...]] = ()
    #: Whether a DoRA may be around such an update: a magnitude beside its parts.
    has_dora: ClassVar[bool] = False

    @abstractmethod
    def takes(self, delta: Delta) -> bool:
        """Whether an update is of this kind."""

    @abstractmethod
    def decode(self, module: StoredModule) -> Delta:
        """The update of a module that has one of the forms.

        Raises:
            FormatError: a tensor cannot be a part of such an update.
            ShapeMismatchError: the tensors do not fit each other.
        """

    @abstractmethod
    def encode(self, delta: Delta) -> Iterator[tuple[str, Source]]:
        """The tensors of an update with the names of their parts, without the alpha."""

    @abstractmethod
    def rank(self, delta: Delta) -> int:
        """The rank that readers divide the stored alpha by."""
