"""A codec for a kind with two pairs of factors, whose products are multiplied entry by entry."""

from collections.abc import Iterator
from typing import final

from loratools.deltas import Delta
from loratools.formats._modules.kinds import Codec, StoredModule
from loratools.io.source import Source
from tests.deltas.toys import Products

_UPS, _DOWNS = ("toy_w1_a", "toy_w2_a"), ("toy_w1_b", "toy_w2_b")


@final
class _ProductsCodec(Codec):
    forms = ((*_UPS, *_DOWNS),)
    marks = _UPS

    def takes(self, delta: Delta) -> bool:
        return isinstance(delta, Products)

    def decode(self, module: StoredModule) -> Products:
        ups, downs = ((module.parts[a], module.parts[b]) for a, b in (_UPS, _DOWNS))
        shape = (ups[0].shape[0], downs[0].shape[1])
        return Products(ups, downs, module.scaling(ups[0].shape[1]), shape)

    def encode(self, delta: Delta) -> Iterator[tuple[str, Source]]:
        assert isinstance(delta, Products)
        yield from zip((*_UPS, *_DOWNS), (*delta.ups, *delta.downs), strict=True)

    def rank(self, delta: Delta) -> int:
        assert isinstance(delta, Products)
        return delta.ups[0].shape[1]


CODEC = _ProductsCodec()
