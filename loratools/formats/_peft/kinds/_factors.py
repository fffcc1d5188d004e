"""Converts between the factors that PEFT stores and a LoRA, for all types of layers."""

from collections.abc import Iterator, Sequence
from functools import partial

from loratools.deltas import swapped
from loratools.deltas.lora import LoRA
from loratools.errors import ShapeMismatchError, UnsupportedError, counted, errors_of, shorten
from loratools.formats._fields import integer
from loratools.formats._peft.config import PeftConfig
from loratools.formats._peft.kinds import StoredModule, WrittenModule
from loratools.formats._peft.tensors import in_blocks, shaped, spread
from loratools.io.computed import rearranged
from loratools.io.source import Source, flattened, transposed

LINEAR = ("lora_A", "lora_B")
EMBEDDING = ("lora_embedding_A", "lora_embedding_B")


def decoded_factors(module: StoredModule) -> LoRA:
    """The LoRA that the factors of a module form.

    Raises:
        ShapeMismatchError: the factors do not fit each other.
        UnsupportedError: they belong to a grouped convolution.
    """
    return _embedding(module) if EMBEDDING[0] in module.roles else _linear(module)


def encoded_factors(module: WrittenModule, lora: LoRA) -> Iterator[tuple[str, Source]]:
    """The factors in PEFT's shapes, by what follows the module's name in their keys."""
    if module.update.is_embedding:
        yield "lora_embedding_A", transposed(lora.up)
        yield "lora_embedding_B", transposed(lora.down)
        return
    kernel = (1,) * (len(lora.shape) - 2)
    yield "lora_A.weight", shaped(lora.down, (lora.rank, *lora.shape[1:]))
    yield "lora_B.weight", shaped(lora.up, (*lora.up.shape, *kernel))


def enabled_parts(config: PeftConfig) -> tuple[bool, ...]:
    """Whether each part of a fused weight, of an old `MergedLinear`, is updated; else empty."""
    value = config.fields.get("enable_lora")
    return tuple(bool(item) for item in value) if isinstance(value, list) else ()


def _linear(module: StoredModule) -> LoRA:
    """The LoRA of a linear layer or a convolution."""
    down, up = module.roles["lora_A"], module.roles["lora_B"]
    if enabled := enabled_parts(module.config):
        return _merged_linear(module, down, up, enabled)
    down, up = _expanded(module, down, up)
    above, below = up.shape, down.shape
    is_kernel = len(above) == len(below) > 2
    if is_kernel and 1 <= above[1] < below[0]:
        raise UnsupportedError(
            f"{module.name}: a grouped convolution, whose update has no "
            f"counterpart in the shape of its weight",
            tensor=module.path,
        )
    if len(below) < 2 or len(below) != len(above) or below[0] != above[1]:
        raise ShapeMismatchError(
            f"{module.name}: lora_A {list(below)} and lora_B {list(above)} do not have "
            f"the same rank",
            tensor=module.path,
            hint=swapped(above, below),
        )
    return LoRA(flattened(up), flattened(down), module.scaling, (above[0], *below[1:]))


def _expanded(module: StoredModule, down: Source, up: Source) -> tuple[Source, Source]:
    """Both factors as whole matrices; BD-LoRA stores one of them as blocks."""
    blocks = _blocks(module.config, module.path)
    if blocks is None:
        return down, up
    part, count = blocks
    stacked = down if part == "down" else up
    if len(stacked.shape) != 2 or stacked.shape[0] % count:
        with module.config.where.errors():
            raise ShapeMismatchError(
                f"{shorten(module.path)}: the {part} factor {list(stacked.shape)} does not "
                f"consist of the {counted(count, 'block')} that use_bdlora gives it",
                tensor=module.path,
            )
    expanded = in_blocks(stacked, count)
    return (expanded, up) if part == "down" else (down, expanded)


def _blocks(config: PeftConfig, module: str) -> tuple[str, int] | None:
    """The block-diagonal factor of a BD-LoRA, `up` or `down`, and its number of blocks."""
    settings = config.fields.get("use_bdlora")
    if not isinstance(settings, dict):
        return None
    for field, factor in (("target_modules_bd_a", "down"), ("target_modules_bd_b", "up")):
        # PEFT looks for these names anywhere in the path.
        names = settings.get(field)
        if isinstance(names, list) and any(str(name) in module for name in names):
            with config.where.errors(), errors_of("use_bdlora"):
                return factor, integer(settings, "nblocks")
    return None


def _merged_linear(module: StoredModule, down: Source, up: Source, enabled: Sequence[bool]) -> LoRA:
    """The LoRA of a fused weight of which only the enabled parts are updated.

    Such adapters are from PEFT before 0.3, and from microsoft/LoRA.
    """
    groups = sum(enabled)
    rank = up.shape[1] if len(up.shape) > 1 else 0
    fit = len(down.shape) == 2 and down.shape[0] == groups * rank
    if not (groups and rank and fit) or up.shape[0] % groups:
        with module.config.where.errors():
            raise ShapeMismatchError(
                f"{shorten(module.path)}: lora_A {list(down.shape)} and lora_B "
                f"{list(up.shape)} do not fit enable_lora {list(enabled)}",
                tensor=module.path,
            )
    up = flattened(up)
    rows = up.shape[0] // groups * len(enabled)
    expand = partial(spread, groups=groups, enabled=tuple(enabled))
    expanded = rearranged(up, (rows, down.shape[0]), expand)
    return LoRA(expanded, down, module.scaling, (rows, down.shape[1]))


def _embedding(module: StoredModule) -> LoRA:
    """The LoRA of an embedding."""
    down, up = module.roles["lora_embedding_A"], module.roles["lora_embedding_B"]
    if len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != up.shape[1]:
        raise ShapeMismatchError(
            f"{module.name}: lora_embedding_A {list(down.shape)} and lora_embedding_B "
            f"{list(up.shape)} do not have the same rank",
            tensor=module.path,
            hint=swapped(up.shape, down.shape),
        )
    # PEFT computes (B @ A).T, so what it calls A holds a column for every row of the embedding.
    return LoRA(transposed(down), transposed(up), module.scaling, (down.shape[1], up.shape[0]))
