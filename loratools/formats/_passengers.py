"""Tensors that files hold beside an adapter's own: no update of a model, and written again as read.

No dialect sees them. They are taken out of a bundle before a dialect is asked, and put back into
what it writes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import final

from loratools.adapter import Adapter
from loratools.formats._file_order import in_file_order
from loratools.io.bundle import Bundle
from loratools.io.dtypes import nbytes
from loratools.io.source import Source

#: The beginnings of keys, each with the reason why such a tensor changes no weight.
_BEGINNINGS = {
    "bundle_emb.": "an embedding of textual inversion, carried along",
    "emp_params": "parameters of an embedding, carried along",
    "_aux.": "data of the program that wrote the file, carried along",
}


@final
class Passengers:
    """The tensors of a bundle that are no part of an adapter.

    A bundle that has no others keeps them: then they are what the file is about.
    """

    def __init__(self, bundle: Bundle) -> None:
        beginnings = tuple(_BEGINNINGS)
        found = {k: source for k, source in bundle.tensors.items() if k.startswith(beginnings)}
        self.tensors: Mapping[str, Source] = {} if len(found) == len(bundle.tensors) else found
        self._all = bundle

    @property
    def rest(self) -> Bundle:
        """The bundle without them."""
        if not self.tensors:
            return self._all
        own = {k: source for k, source in self._all.tensors.items() if k not in self.tensors}
        return replace(self._all, tensors=own)

    def beside(self, adapter: Adapter, own: Bundle) -> Adapter:
        """The adapter decoded from `own`, with them as tensors without effect.

        `own` is the rest in its order, perhaps under other names.
        """
        if not self.tensors or adapter.filed is None:
            return adapter
        keys = iter(own.tensors)
        order = tuple(k if k in self.tensors else next(keys) for k in self._all.tensors)
        carried = {**adapter.filed.passengers, **self.tensors}
        filed = replace(adapter.filed, passengers=carried, order=order)
        reasons = {key: _reason(key) for key in self.tensors}
        return replace(adapter, inert={**adapter.inert, **reasons}, filed=filed)


def with_passengers(bundle: Bundle, adapter: Adapter) -> Bundle:
    """What a dialect wrote of an adapter, with the passengers of the file that it was read from."""
    filed = adapter.filed
    if filed is None or not filed.passengers:
        return bundle
    added = sum(nbytes(source.dtype, source.shape) for source in filed.passengers.values())
    tensors = in_file_order(filed.order, {**bundle.tensors, **filed.passengers})
    return replace(bundle, tensors=tensors, nbytes=bundle.nbytes + added)


def _reason(key: str) -> str:
    return next(reason for begin, reason in _BEGINNINGS.items() if key.startswith(begin))
