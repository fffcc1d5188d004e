"""Rounding a computed weight to its stored dtype, and how much of the update that keeps.

A bfloat16 has 8 significant bits. An update that moves a weight by less than half of its last bit
is lost by rounding to nearest, and kept on average by rounding stochastically.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from loratools.io.dtypes import FACTORS
from loratools.io.source import Source

#: Elements of a block, which is read and written at once.
BLOCK_ELEMENTS = 2**20
#: Elements that are computed at once: three times 256 KB of float32, which stay in a core's cache.
PIECE_ELEMENTS = 2**16

#: Rounds a block into another of the output's dtype; the number is its first element's position.
Round = Callable[[Tensor, Tensor, int], None]

#: Between these, a sum of squares has lost nothing that matters to float32's range.
_LEAST_SUM, _MOST_SUM = 2.0**-64, 2.0**100


@final
@dataclass(frozen=True)
class Fidelity:
    """How much of an update survived the rounding, as sums over elements.

    `error` is ‖realised - intended‖², `intended` is ‖intended‖² and `product` their inner product
    ⟨realised, intended⟩, where the intended update is the computed weight minus the base's, and
    the realised one the rounded weight minus the base's. `moved` says whether any number is another
    than it would be without the update.
    """

    error: float = 0.0
    intended: float = 0.0
    product: float = 0.0
    moved: bool = False

    def __add__(self, other: "Fidelity") -> "Fidelity":
        """The sums over both."""
        return Fidelity(
            self.error + other.error,
            self.intended + other.intended,
            self.product + other.product,
            self.moved or other.moved,
        )

    @property
    def is_finite(self) -> bool:
        """Whether all numbers that were measured are finite."""
        return math.isfinite(self.error)

    @property
    def relative_error(self) -> float:
        """‖realised - intended‖ / ‖intended‖; 0 for an update of zero."""
        return math.sqrt(self.error / self.intended) if self.intended else 0.0

    @property
    def kept(self) -> float:
        """The length of the realised update along the intended one, as a share; 1 for zero."""
        return self.product / self.intended if self.intended else 1.0

    @property
    def cosine(self) -> float:
        """The cosine between both updates; 1 for an update of zero, 0 for one wholly lost."""
        realised = self.error - self.intended + 2 * self.product
        if not self.intended:
            return 1.0
        if realised <= 0:
            return 0.0
        return min(1.0, self.product / math.sqrt(realised * self.intended))


@final
@dataclass(frozen=True)
class Rounding:
    """How results are rounded: to nearest, or stochastically where there is a seed."""

    seed: int | None = None
    allow_nonfinite: bool = False

    def of(self, name: str) -> Round:
        """The rounding of the tensor `name`."""
        return round_to_nearest if self.seed is None else round_stochastically(self.seed, name)


def compute_dtype(stored: str, output: str) -> torch.dtype:
    """float32 where its 24 bits decide every bfloat16; float64 for all wider dtypes."""
    narrow = output == "BF16" and stored in {"BF16", "F16"}
    return torch.float32 if narrow else torch.float64


def rows_of(shape: tuple[int, ...]) -> int:
    """Rows of a tensor seen as a matrix."""
    return shape[0] if shape else 1


def block_rows(shape: tuple[int, ...]) -> int:
    """Rows of a block: decided by the shape alone, so that bytes do not depend on who computes."""
    columns = math.prod(shape[1:])
    return max(1, BLOCK_ELEMENTS // max(1, columns))


def spans(begin: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    """`begin` to `end` in pieces of `step`."""
    for first in range(begin, end, step):
        yield first, min(first + step, end)


def read_block(source: Source, begin: int, end: int) -> Shaped[Tensor, "rows columns"]:
    """Rows of a source as a matrix, in their stored dtype."""
    block = source.read_rows(begin, end) if source.shape else source.read()
    return block.reshape(end - begin, -1)


def round_to_nearest(value: Tensor, rounded: Tensor, _: int = 0) -> None:
    """Round to the nearest value of the dtype of `rounded`, ties to even."""
    if value.dtype == torch.float64 and rounded.dtype.itemsize == 2:
        value = _round_to_odd(value)
    rounded.copy_(value)


def _round_to_odd(value: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """float64 as float32 that rounds on to 16 bits as the float64 would.

    torch goes through float32, and rounding twice is wrong where the first lands on a tie. A
    float32 whose last bit is set is never a tie (Boldo and Melquiond, 2008).
    """
    nearest = value.float()
    bits = nearest.view(torch.int32)
    is_even_and_inexact = (nearest != value) & (bits % 2 == 0)
    step = torch.where(nearest.abs() > value.abs(), -1, 1)
    return torch.where(is_even_and_inexact, bits + step, bits).to(torch.int32).view(torch.float32)


def round_stochastically(seed: int, name: str) -> Round:
    """Rounding up or down with probabilities that make the mean exact.

    The random number of an element depends on `seed`, `name` and its position, on nothing else.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype=np.uint64)

    def rounding(value: Tensor, rounded: Tensor, position: int) -> None:
        round_to_nearest(value, rounded)
        excess = value.double() - rounded.double()
        other = _neighbour(rounded, is_above=excess > 0)
        share = excess / (other.double() - rounded.double())
        chance = _uniform(key, position, value.numel()).view_as(value)
        rounded.copy_(torch.where((excess != 0) & (chance < share), other, rounded))

    return rounding


def _neighbour(values: Tensor, is_above: Tensor) -> Tensor:
    """The next larger, or the next smaller, value of the same dtype."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.dtype.itemsize]
    bits = values.view(integers)
    # The bits are sign and magnitude: one more is the next value away from zero.
    away = is_above == ~torch.signbit(values)
    neighbour = torch.where(away, bits + 1, bits - 1).to(integers)
    smallest = torch.where(is_above, 1, torch.iinfo(integers).min + 1).to(integers)
    return torch.where(values == 0, smallest, neighbour).view(values.dtype)


def rounds_to(source: Source, stored: Source) -> bool:
    """Whether `source`, rounded to the dtype of `stored`, is `stored`."""
    if source.shape != stored.shape or source.dtype not in FACTORS:
        return False
    rows = rows_of(source.shape)
    for begin, end in spans(0, rows, block_rows(source.shape)):
        block = read_block(stored, begin, end)
        rounded = torch.empty_like(block)
        round_to_nearest(read_block(source, begin, end).double(), rounded)
        if not torch.equal(rounded, block):
            return False
    return True


def frobenius(source: Source) -> float:
    """The Frobenius norm of a tensor, a block at a time, added up in float64."""
    squares = 0.0
    for begin, end in spans(0, rows_of(source.shape), block_rows(source.shape)):
        squares += read_block(source, begin, end).double().square().sum().item()
    return math.sqrt(squares)


def measure(
    before: Float[Tensor, "rows columns"],
    rounded: Float[Tensor, "rows columns"],
    vectors: Float[Tensor, "2 rows columns"],
) -> Fidelity:
    """The sums over all elements, of which none is left out: an update may be in any few of them.

    `vectors[0]` is the intended update; `vectors[1]` is overwritten with the error. The sums are
    added up in the dtype of `vectors`, a few units of its last bit off.
    """
    update, error = vectors
    # Not the computed weight: in it, the sum of a weight and a far smaller update is rounded too.
    error.copy_(rounded).sub_(before).sub_(update)
    sums = _sums(vectors)
    if not _LEAST_SUM < sums.intended < _MOST_SUM or not sums.error < _MOST_SUM:
        # Squares of float32 may have left its range, unless all are zero.
        return _sums(vectors.double()) if vectors.any() else sums
    return sums


def _sums(vectors: Float[Tensor, "2 rows columns"]) -> Fidelity:
    flat = vectors.flatten(1)
    # One product is faster than three dot products, and as exact.
    (intended, product), (_, error) = (flat @ flat.T).tolist()
    return Fidelity(error, intended, intended + product)


def _uniform(key: "np.typing.NDArray[np.uint64]", position: int, count: int) -> Tensor:
    """`count` numbers in [0, 1) of a counter-based generator, from the element `position` on."""
    generator = np.random.Philox(key=key)
    # One step of the counter gives four words of 64 bits, one for each element.
    generator.advance(position // 4)
    words = generator.random_raw(count + position % 4)[position % 4 :]
    return torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)
