"""The effects of adapters on weights, computed in float64 without the code that is tested."""

import torch
from torch import Tensor

from loratools.adapter import Adapter
from loratools.deltas.diff import Diff
from loratools.deltas.lora import LoRA
from loratools.parts import Update
from tests.narrowing import present


def product(lora: LoRA) -> Tensor:
    """The product `scaling * up @ down` of a LoRA, in float64."""
    return lora.scaling.value * (lora.up.read().double() @ lora.down.read().double())


def lora_of(update: Update) -> LoRA:
    """The LoRA in an update, which must have one."""
    return present(update.delta.low_rank)


def effects(adapter: Adapter) -> dict[str, Tensor]:
    """The sums that updates add to weights, by target; for DoRA and KaSA those of their LoRA."""
    found = {}
    for target, update in adapter.updates.items():
        if isinstance(update.delta, Diff):
            found[target] = update.delta.values.read().double() * update.delta.scaling.value
        elif update.delta.low_rank is not None:
            found[target] = product(update.delta.low_rank)
    return found


def assert_same(one: Adapter, other: Adapter) -> None:
    """Assert that two adapters have the same updates and tensors, bit for bit."""
    assert list(one.updates) == list(other.updates)
    for target, update in one.updates.items():
        twin = other.updates[target]
        assert type(update.delta) is type(twin.delta)
        assert update.delta.shape == twin.delta.shape
        assert (update.fan_in_fan_out, update.is_embedding) == (
            twin.fan_in_fan_out,
            twin.is_embedding,
        )
        for source, copy in zip(update.delta.sources, twin.delta.sources, strict=True):
            assert source.dtype == copy.dtype
            torch.testing.assert_close(source.read(), copy.read(), rtol=0, atol=0)
        if (lora := update.delta.low_rank) is not None and twin.delta.low_rank is not None:
            assert lora.scaling.value == twin.delta.low_rank.scaling.value
    assert list(one.replaced) == list(other.replaced)
    for target, replacement in one.replaced.items():
        twin_replacement = other.replaced[target]
        assert replacement.is_trained == twin_replacement.is_trained
        torch.testing.assert_close(
            replacement.source.read(), twin_replacement.source.read(), rtol=0, atol=0
        )
    assert list(one.rows) == list(other.rows)
    for target, rows in one.rows.items():
        assert rows.indices == other.rows[target].indices
        torch.testing.assert_close(rows.rows.read(), other.rows[target].rows.read(), rtol=0, atol=0)
