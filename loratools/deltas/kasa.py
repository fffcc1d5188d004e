"""KaSA (Wang et al., 2024, arXiv:2412.06071): LoRA on a weight without its smallest components.

W' = (W - its `rank` smallest singular components) + scaling * up @ diag(diagonal) @ down.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, final

from loratools.deltas import Apply, Span, check_stored, is_whole, only_whole
from loratools.deltas.lora import LoRA, Scaling
from loratools.errors import ShapeMismatchError, UnsupportedError, counted
from loratools.io.source import Source

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class KaSA:
    """A LoRA with a diagonal between its factors, added to a truncated weight.

    PEFT truncates the weight in float32 when an adapter is loaded; here it is done in float64.
    The whole weight is decomposed, which takes memory for a few copies of it in float64.
    """

    caveat: ClassVar[str | None] = "without the diagonal and what is taken out of the weight"

    lora: LoRA
    diagonal: Source

    def __post_init__(self) -> None:
        """Check that the diagonal has an entry for every rank."""
        check_stored(self.diagonal)
        if self.diagonal.shape != (self.lora.rank,):
            raise ShapeMismatchError(
                f"{self.diagonal.keys[0]}: has the shape {list(self.diagonal.shape)}, where "
                f"{counted(self.lora.rank, 'entry is', 'entries are')} expected",
                tensor=self.diagonal.keys[0],
            )

    @property
    def kind(self) -> str:
        """The name of this kind."""
        return "KaSA"

    @property
    def sources(self) -> tuple[Source, ...]:
        """The factors of the LoRA, and the diagonal."""
        return (*self.lora.sources, self.diagonal)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight that is changed."""
        return self.lora.shape

    @property
    def by_rows(self) -> bool:
        """False, as singular components need the whole weight."""
        return False

    @property
    def additive(self) -> None:
        """None, as the components that are taken out are the weight's own."""
        return None

    @property
    def scaling(self) -> Scaling:
        """The scaling of the LoRA."""
        return self.lora.scaling

    @property
    def low_rank(self) -> LoRA:
        """The LoRA that is added to the truncated weight, without the diagonal."""
        return self.lora

    def nothing(self) -> None:
        """None, as the weight always loses its smallest components."""

    def transposed(self) -> "KaSA":
        """The same change to the transposed weight."""
        return replace(self, lora=self.lora.transposed())

    def rows(self, begin: int, end: int) -> "KaSA":
        """Refuse some of the rows, as singular components are of the whole weight.

        Raises:
            UnsupportedError: these are not all rows.
        """
        if is_whole(begin, end, self.shape):
            return self
        raise UnsupportedError(
            f"{self.kind} takes singular components out of the whole weight, so some rows have no "
            f"change of their own"
        )

    def scaled(self, strength: float) -> "KaSA":
        """Return this change for a strength of 1; any other would depend on the weight.

        Raises:
            UnsupportedError: the strength is not 1.
        """
        return only_whole(self, strength)

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> "KaSA":
        """Replace the scaling of the LoRA, and multiply its `up` with `factor`."""
        return replace(self, lora=self.lora.with_scaling(scaling, factor))

    def factored(self) -> LoRA:
        """The LoRA that is added to the truncated weight."""
        return self.lora

    def with_low_rank(self, lora: LoRA) -> "KaSA":
        """Replace the LoRA by one of the same rank, and keep the diagonal.

        Raises:
            UnsupportedError: the new LoRA has another rank.
        """
        if lora.rank != self.lora.rank:
            raise UnsupportedError(
                "KaSA takes as many components out of the weight as its rank, so another rank "
                "would be another change"
            )
        return replace(self, lora=lora)

    def bind(self, span: Span, strength: float) -> Apply:
        """Return a function that adds `strength` times the difference of result and weight."""
        import torch

        weight = torch.empty(self.lora.up.shape[0], self.lora.down.shape[1], dtype=torch.float64)
        for begin, block in span.blocks():
            weight[begin : begin + len(block)] = block
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        kept = max(0, len(s) - self.lora.rank)
        smallest = (u[:, kept:] * s[kept:]) @ vh[kept:]
        up = self.lora.up.read().double() * self.diagonal.read().double()
        update = up @ self.lora.down.read().double() * self.lora.scaling.value - smallest
        update = update.to(span.dtype)

        def apply(block: "Tensor", begin: int) -> None:
            block.add_(update[begin : begin + block.shape[0]], alpha=strength)

        return apply
