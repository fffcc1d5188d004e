"""KaSA (Wang et al., 2024, arXiv:2412.06071): LoRA on a weight without its smallest components.

W' = (W - its `rank` smallest singular components) + scaling * up @ diag(diagonal) @ down.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, final

from loratools.deltas import Apply, Span, check_stored, only_whole
from loratools.deltas.lora import LoRA, Scaling
from loratools.errors import ShapeMismatchError, UnsupportedError
from loratools.io.source import Source

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class KaSA:
    """A LoRA with a diagonal between its factors, onto a truncated weight.

    PEFT truncates the weight in float32 when an adapter is loaded; here it is done in float64.
    The whole weight is decomposed, so memory is that of a few such copies of it.
    """

    caveat: ClassVar[str | None] = "without the diagonal and what is taken out of the weight"

    lora: LoRA
    diagonal: Source

    def __post_init__(self) -> None:
        """Check that there is an entry for every rank."""
        check_stored(self.diagonal)
        if self.diagonal.shape != (self.lora.rank,):
            raise ShapeMismatchError(
                f"{self.diagonal.keys[0]}: has the shape {list(self.diagonal.shape)}; "
                f"{self.lora.rank} entries are expected"
            )

    @property
    def kind(self) -> str:
        """Its name."""
        return "KaSA"

    @property
    def sources(self) -> tuple[Source, ...]:
        """The factors, and the diagonal."""
        return (*self.lora.sources, self.diagonal)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self.lora.shape

    @property
    def by_rows(self) -> bool:
        """Singular components need the whole weight."""
        return False

    @property
    def additive(self) -> None:
        """None: what is taken out are the weight's own components."""
        return None

    @property
    def scaling(self) -> Scaling:
        """That of the update."""
        return self.lora.scaling

    @property
    def low_rank(self) -> LoRA:
        """What is added to the truncated weight, less the diagonal."""
        return self.lora

    def nothing(self) -> None:
        """None: the smallest components are taken out of the weight."""

    def transposed(self) -> "KaSA":
        """The same change to the transposed matrix."""
        return replace(self, lora=self.lora.transposed())

    def scaled(self, strength: float) -> "KaSA":
        """Itself, or refused: any other strength would have to know the weight.

        Raises:
            UnsupportedError: the strength is not 1.
        """
        return only_whole(self, strength)

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> "KaSA":
        """With `factor` in the LoRA's `up`."""
        return replace(self, lora=self.lora.with_scaling(scaling, factor))

    def with_low_rank(self, lora: LoRA) -> "KaSA":
        """Another LoRA of the same rank, and the same diagonal.

        Raises:
            UnsupportedError: the rank is another one.
        """
        if lora.rank != self.lora.rank:
            raise UnsupportedError(
                "KaSA takes as many components out of the weight as its rank, so another rank "
                "would be another change"
            )
        return replace(self, lora=lora)

    def bind(self, span: Span, strength: float) -> Apply:
        """Add `strength` times the difference between the result and the weight."""
        import torch

        weight = torch.cat([block for _, block in span.blocks()]).double()
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        kept = max(0, len(s) - self.lora.rank)
        smallest = (u[:, kept:] * s[kept:]) @ vh[kept:]
        up = self.lora.up.read().double() * self.diagonal.read().double()
        update = up @ self.lora.down.read().double() * self.lora.scaling.value - smallest
        update = update.to(span.dtype)

        def apply(block: "Tensor", begin: int) -> None:
            block.add_(update[begin : begin + block.shape[0]], alpha=strength)

        return apply
