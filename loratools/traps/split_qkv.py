"""Split projections were fused into one matrix, and alpha stayed that of a part."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from loratools.adapter import Adapter
from loratools.deltas.lora import LoRA, Scaling
from loratools.formats._modules.metadata import stated_size
from loratools.parts import Note
from loratools.traps._trap import Seen, Trap, listed, scalings
from loratools.typed import repairing

if TYPE_CHECKING:
    from torch import Tensor


class _SplitQKV(Trap):
    what = "Projections that were trained apart (q, k, v, …) are fused, with the alpha of one."
    readers = (
        "sd-scripts writes such files with `split_qkv` (issue 2204). `lora_up` is block-diagonal "
        "and the rank is 3 or 4 times as large, so that all programs divide alpha by 3 or 4 "
        "times too much"
    )
    cure = "multiplies alpha by the number of the parts"
    found_by = "`inspect --check`, as it has to read values"

    def find(self, seen: Seen) -> Iterator[Note]:
        found = _fused(seen.adapter) if seen.reads_values else {}
        for parts in dict.fromkeys(found.values()):
            targets = [target for target, number in found.items() if number == parts]
            yield Note(
                "problem",
                f"{parts} projections are fused to a block-diagonal lora_up, and alpha is still "
                f"that of one: the update is {parts} times too weak; {repairing()} "
                f"multiplies alpha by {parts}: {listed(targets)}",
            )

    def cured(self, adapter: Adapter) -> Mapping[str, Scaling]:
        known = dict(scalings(adapter))
        return {
            target: replace(known[target], alpha=parts * known[target].alpha)
            for target, parts in _fused(adapter).items()
        }


def _fused(adapter: Adapter) -> dict[str, int]:
    """The targets whose update is fused of several with the alpha of one; the number of them.

    A fused update has the alpha of the other modules, a multiple of their rank, and a `lora_up`
    with a block for each part. Only where the ranks say that it may be one are values read.
    """
    ranks: dict[float, dict[int, None]] = {}
    if adapter.filed is not None and (stated := stated_size(adapter.filed.metadata)):
        rank, alpha = stated
        ranks.setdefault(alpha, {})[rank] = None
    loras = dict(_loras(adapter))
    for lora in loras.values():
        ranks.setdefault(lora.scaling.alpha, {})[lora.rank] = None
    found = {}
    for target, lora in loras.items():
        for rank in sorted(ranks[lora.scaling.alpha]):
            parts, rest = divmod(lora.rank, rank)
            if parts > 1 and not rest and _is_block_diagonal(lora.up.read(), parts):
                found[target] = parts
                break
    return found


def _loras(adapter: Adapter) -> Iterator[tuple[str, LoRA]]:
    """The updates whose alpha is divided by the rank of their factors, by target.

    PEFT's old `MergedLinear` is fused too, but its alpha is divided by the rank of one part.
    """
    for target, update in adapter.updates.items():
        lora = update.delta.low_rank
        if lora is None or not lora.scaling.alpha:
            continue
        if (lora.scaling.rule, lora.scaling.rank) == ("rank", lora.rank):
            yield target, lora


def _is_block_diagonal(up: "Tensor", parts: int) -> bool:
    """Whether each of `parts` groups of columns has rows of its own, in the same order."""
    rows, rank = up.shape
    used = up.reshape(rows, parts, rank // parts).ne(0).any(dim=2)
    owners = used[used.any(dim=1)]
    if not bool(used.any(dim=0).all()) or bool((owners.sum(dim=1) != 1).any()):
        return False
    order = owners.int().argmax(dim=1)
    return bool((order.diff() >= 0).all())


TRAP = _SplitQKV()
