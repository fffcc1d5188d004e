"""The alpha of a module as a tensor of one number."""

import math
from collections.abc import Mapping

from loratools.deltas.lora import Scaling
from loratools.errors import FormatError
from loratools.io.dtypes import to_torch
from loratools.io.scalar import SCALARS, read_scalar, read_scalars, rounded
from loratools.io.source import Held, Source

ALPHA = "alpha"


def read_alphas(sources: Mapping[str, Source]) -> Mapping[str, float]:
    """The alphas of modules, which are read together; without those that are no single number."""
    return read_scalars(
        {
            module: source
            for module, source in sources.items()
            if math.prod(source.shape) == 1 and source.dtype in SCALARS
        }
    )


def scaling_of(where: str, source: Source | None, alpha: float | None, *, rank: int) -> Scaling:
    """The scaling that a stored alpha gives to a module; a scaling of 1 where `source` is None.

    `alpha` is the number that `read_alphas` found in the tensor.

    Raises:
        FormatError: the alpha is not a single finite number.
    """
    if source is None:
        return Scaling(alpha=rank, rank=rank, rule="rank", origin="assumed")
    if alpha is None:
        raise FormatError(f"{where}: {source.dtype} {list(source.shape)} is not a single number")
    if not math.isfinite(alpha):
        raise FormatError(f"{where}: is {alpha}")
    return Scaling(alpha=alpha, rank=rank, rule="rank", origin="tensor", source=source)


def alpha_at(scaling: Scaling, rank: int) -> float:
    """The alpha with which readers, who divide by the stored `rank`, get the update's scaling.

    The alpha that was read is returned as it is where nothing has changed: dividing and multiplying
    by the rank could round it.
    """
    if (scaling.rule, scaling.rank, scaling.times) == ("rank", rank, 1):
        return scaling.alpha
    return scaling.value * rank


def stored_alpha(key: str, scaling: Scaling, alpha: float, dtype: str) -> Source:
    """The tensor in which an alpha is stored: the one that was read, or a new one if it changed.

    A new tensor has the dtype of the one that was read, or else `dtype`, if that represents the
    alpha exactly.
    """
    filed = scaling.source
    if filed is not None and read_scalar(filed) == alpha:
        return filed
    if filed is not None:
        return _number(key, alpha, filed.dtype, filed.shape)
    return _number(key, alpha, dtype, ())


def _number(key: str, number: float, dtype: str, shape: tuple[int, ...]) -> Source:
    """A tensor of one number: of this dtype, or else float32 or float64, if that is exact."""
    import torch

    fitting = (d for d in (dtype, "F32") if d in SCALARS and rounded(number, d) == number)
    stored = next(fitting, "F64")
    tensor = torch.tensor(number, dtype=torch.float64).to(to_torch(stored)).reshape(shape)
    return Held(key, tensor, stored)
