"""KaSA (Wang et al., 2024, arXiv:2412.06071): LoRA on a weight without its smallest components.

W' = (W - its `rank` smallest singular components) + scaling * up @ diag(diagonal) @ down.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, final

from loratools.deltas import Apply, Span, check_stored
from loratools.deltas.lora import LoRA
from loratools.errors import ShapeMismatchError
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

    additive: ClassVar[bool] = False

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
    def low_rank(self) -> LoRA:
        """What is added to the truncated weight, less the diagonal."""
        return self.lora

    def nothing(self) -> None:
        """None: the smallest components are taken out of the weight."""

    def transposed(self) -> "KaSA":
        """The same change to the transposed matrix."""
        return replace(self, lora=self.lora.transposed())

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
