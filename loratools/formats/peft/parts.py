"""The stored parts of a module, as the factors of its update."""

from collections.abc import Mapping
from functools import partial

from loratools.deltas.lora import LoRA, Scaling
from loratools.errors import FormatError, ShapeMismatchError, UnsupportedError, shorten
from loratools.formats.peft.config import PeftConfig
from loratools.formats.peft.tensors import in_blocks, spread
from loratools.io.computed import rearranged
from loratools.io.source import Source, flattened, transposed

_LINEAR = ("lora_A", "lora_B")
_PLAIN_PAIR = frozenset(_LINEAR)
_EMBEDDING = ("lora_embedding_A", "lora_embedding_B")
#: What may be stored beside a pair of factors.
_EXTRAS = {
    _LINEAR: ("lora_magnitude_vector", "lora_diag", "lora_B.bias"),
    _EMBEDDING: ("lora_magnitude_vector",),
}


def check_roles(where: str, module: str, roles: Mapping[str, Source]) -> None:
    """Whether the parts of a module are one whole update.

    Raises:
        FormatError: one of both factors is missing, or both.
        UnsupportedError: there are parts of more than one update, or one that PEFT never writes.
    """
    if roles.keys() == _PLAIN_PAIR:  # as nearly all of them
        return
    where = f"{where}: {shorten(module)}"
    for role in roles:
        if role.endswith(".bias") and role != "lora_B.bias":
            raise UnsupportedError(f"{where}: a bias on {role.removesuffix('.bias')}")
    pair = _EMBEDDING if any(role in roles for role in _EMBEDDING) else _LINEAR
    extras = [role for role in roles if role not in pair]
    for one in (*pair, *extras):
        for other in pair:
            if one in roles and other not in roles:
                raise FormatError(f"{where} has {one} and no {other}: half an update")
    for role in extras:
        if role not in _EXTRAS[pair]:
            raise UnsupportedError(f"{where}: {role} beside {pair[0]} and {pair[1]}")
    if "lora_magnitude_vector" in roles and "lora_diag" in roles:
        raise UnsupportedError(f"{where}: lora_magnitude_vector and lora_diag, parts of two kinds")


def linear(
    where: str, config: PeftConfig, path: str, roles: Mapping[str, Source], scaling: Scaling
) -> LoRA:
    """The update of a linear layer or a convolution."""
    down, up = roles["lora_A"], roles["lora_B"]
    if enabled := config.enabled():
        return _merged_linear(where, path, down, up, enabled, scaling)
    down, up = _expanded(where, config, path, down, up)
    above, below = up.shape, down.shape
    is_kernel = len(above) == len(below) > 2
    if is_kernel and 1 <= above[1] < below[0]:
        raise UnsupportedError(
            f"{where}: {shorten(path)}: a grouped convolution, whose update has no "
            f"counterpart in the shape of its weight"
        )
    if len(below) < 2 or len(below) != len(above) or below[0] != above[1]:
        raise ShapeMismatchError(
            f"{where}: {shorten(path)}: lora_A {list(below)} and lora_B {list(above)} do not have "
            f"the same rank"
        )
    return LoRA(flattened(up), flattened(down), scaling, (above[0], *below[1:]))


def _expanded(
    where: str, config: PeftConfig, path: str, down: Source, up: Source
) -> tuple[Source, Source]:
    """Both factors, the one that BD-LoRA stores as blocks in full."""
    blocks = config.blocks(path)
    if blocks is None:
        return down, up
    part, count = blocks
    stacked = down if part == "down" else up
    if len(stacked.shape) != 2 or stacked.shape[0] % count:
        raise ShapeMismatchError(
            f"{where}: {shorten(path)}: the {part} factor {list(stacked.shape)} does not "
            f"consist of the {count} blocks that use_bdlora gives it"
        )
    expanded = in_blocks(stacked, count)
    return (expanded, up) if part == "down" else (down, expanded)


def _merged_linear(
    where: str,
    path: str,
    down: Source,
    up: Source,
    enabled: tuple[bool, ...],
    scaling: Scaling,
) -> LoRA:
    """PEFT before 0.3 and microsoft/LoRA: updates of the enabled parts of a fused weight."""
    groups = sum(enabled)
    rank = up.shape[1] if len(up.shape) > 1 else 0
    fit = len(down.shape) == 2 and down.shape[0] == groups * rank
    if not (groups and rank and fit) or up.shape[0] % groups:
        raise ShapeMismatchError(
            f"{where}: {shorten(path)}: lora_A {list(down.shape)} and lora_B "
            f"{list(up.shape)} do not fit enable_lora {list(enabled)}"
        )
    up = flattened(up)
    rows = up.shape[0] // groups * len(enabled)
    expand = partial(spread, groups=groups, enabled=enabled)
    expanded = rearranged(up, (rows, down.shape[0]), expand)
    return LoRA(expanded, down, scaling, (rows, down.shape[1]))


def embedding(
    where: str, _: PeftConfig, path: str, roles: Mapping[str, Source], scaling: Scaling
) -> LoRA:
    """The update of an embedding."""
    down, up = roles["lora_embedding_A"], roles["lora_embedding_B"]
    if len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != up.shape[1]:
        raise ShapeMismatchError(
            f"{where}: {shorten(path)}: lora_embedding_A {list(down.shape)} and lora_embedding_B "
            f"{list(up.shape)} do not have the same rank"
        )
    # PEFT computes (B @ A).T, so what it calls A holds a column for every row of the embedding.
    return LoRA(transposed(down), transposed(up), scaling, (down.shape[1], up.shape[0]))
