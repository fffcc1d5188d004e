"""The dtypes that the output's tensors have."""

from dataclasses import dataclass
from functools import cached_property
from typing import final

from loratools.io.checkpoint import Checkpoint
from loratools.io.dtypes import FACTORS, FLOATS
from loratools.names.packed import Packed


@final
@dataclass(frozen=True)
class OutputDtypes:
    """The dtypes of an output: those of the base, or the one that is `wanted` for all floats."""

    base: Checkpoint
    packed: Packed
    wanted: str | None

    def of(self, name: str, dtype: str) -> str:
        """The dtype of a tensor that has this one in the base."""
        if self.wanted is None or dtype not in FLOATS or self.packed.keeps(name):
            return dtype
        return self.wanted

    def of_new(self, name: str, dtype: str) -> str:
        """The dtype of a tensor that the base lacks, and which has this one in an adapter."""
        return self.of(name, self._main if dtype in FACTORS else dtype)

    @cached_property
    def _main(self) -> str:
        """The float dtype that most of the base's bytes have, to which new tensors are rounded."""
        sizes: dict[str, int] = {}
        for name, stored in self.base.tensors.items():
            if stored.dtype in FLOATS and not self.packed.keeps(name):
                sizes[stored.dtype] = sizes.get(stored.dtype, 0) + stored.nbytes
        return max(sizes, key=lambda dtype: sizes[dtype], default="F32")
