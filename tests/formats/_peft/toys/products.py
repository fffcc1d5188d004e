"""A codec of another `peft_type` with rank and alpha: two products, multiplied entry by entry."""

from collections.abc import Iterator
from typing import final

from loratools.deltas import Delta
from loratools.formats._peft.kinds import KindCodec, StoredModule, WrittenModule
from loratools.formats._peft.peft_type import SETTINGS, PeftType, ScalingFields
from loratools.io.source import Source
from loratools.parts import Update
from tests.deltas.toys import Products

_UPS, _DOWNS = ("toy_w1_a", "toy_w2_a"), ("toy_w1_b", "toy_w2_b")


@final
class _ProductsCodec(KindCodec):
    peft_type = PeftType("TOY", "toy", ScalingFields(), settings=("r", "alpha", *SETTINGS))
    forms = ((*_UPS, *_DOWNS),)

    def takes(self, delta: Delta) -> bool:
        return isinstance(delta, Products)

    def rank(self, delta: Delta) -> int:
        assert isinstance(delta, Products)
        return delta.ups[0].shape[1]

    def decode(self, module: StoredModule) -> Iterator[tuple[str, Update]]:
        ups, downs = ((module.roles[a], module.roles[b]) for a, b in (_UPS, _DOWNS))
        shape = (ups[0].shape[0], downs[0].shape[1])
        yield module.weight, module.update(Products(ups, downs, module.scaling, shape))

    def encode(self, module: WrittenModule) -> Iterator[tuple[str, Source]]:
        delta = module.update.delta
        assert isinstance(delta, Products)
        yield from zip((*_UPS, *_DOWNS), (*delta.ups, *delta.downs), strict=True)


CODEC = _ProductsCodec()
