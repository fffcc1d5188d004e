"""Writes adapters in PEFT's format, with a config that agrees with the tensors."""

from collections.abc import Iterator, Mapping, Sequence

from loratools.adapter import Adapter, Update
from loratools.formats.peft.codecs import codecs_for
from loratools.formats.peft.config_write import Contents, config_of
from loratools.formats.peft.keys import AROUND, PREFIX
from loratools.formats.peft.kinds import BesideCodec, KindCodec, WrittenModule
from loratools.formats.peft.modules import common_kind, common_rule, modules_of
from loratools.io.bundle import Bundle
from loratools.io.dtypes import nbytes
from loratools.io.source import Source


def encode(adapter: Adapter) -> Bundle:
    """The files of an adapter, with keys in PEFT's usual form.

    Raises:
        UnsupportedError: PEFT's format cannot store something in the adapter.
    """
    codecs = codecs_for(adapter)
    rule, kind = common_rule(adapter, codecs), common_kind(adapter, codecs)
    modules = modules_of(adapter, codecs, kind, rule)
    beside = {codec: found for codec in codecs.beside if (found := _updates(codec, modules))}
    tensors = {PREFIX + name: source for name, source in _tensors(adapter, kind, modules, beside)}
    if kind is not None:
        tensors |= {AROUND + name: source for name, source in kind.encode_shared(modules)}
    stored = Contents(kind, tuple(beside), modules, rule)
    return Bundle(
        where=adapter.where,
        tensors=tensors,
        metadata=(adapter.filed.metadata if adapter.filed else None) or {"format": "pt"},
        config=config_of(adapter, codecs, stored),
        companions=adapter.companions,
        nbytes=sum(nbytes(source.dtype, source.shape) for source in tensors.values()),
    )


def _updates(codec: BesideCodec, modules: Sequence[WrittenModule]) -> Mapping[str, Update]:
    """The updates, by target, that this codec stores as parts beside the updates of weights."""
    targets = filter(None, map(codec.target, modules))
    updates = modules[0].updates if modules else {}
    return {
        target: update
        for target in targets
        if (update := updates.get(target)) and codec.takes(update.delta)
    }


def _tensors(
    adapter: Adapter,
    kind: KindCodec | None,
    modules: Sequence[WrittenModule],
    beside: Mapping[BesideCodec, Mapping[str, Update]],
) -> Iterator[tuple[str, Source]]:
    for module in modules:
        assert kind is not None, module.path
        for part, source in kind.encode(module):
            yield f"{module.key}.{part}", source
        for codec, updates in beside.items():
            if (target := codec.target(module)) is not None:
                for part, source in codec.encode(module, updates.get(target)):
                    yield f"{module.key}.{part}", source
    yield from _others(adapter, {module.key for module in modules})


def _others(adapter: Adapter, wrapped: set[str]) -> Iterator[tuple[str, Source]]:
    """The whole tensors and the rows of trained tokens, with their keys after PEFT's prefix."""
    tokens = {target.removesuffix(".weight") for target in adapter.rows}
    for target, replacement in adapter.replaced.items():
        owner, _, parameter = target.rpartition(".")
        if owner in tokens:
            owner += ".token_adapter"
        inside = owner in wrapped or owner.endswith(".token_adapter")
        yield f"{owner}.base_layer.{parameter}" if inside else target, replacement.source
    for target, rows in adapter.rows.items():
        module_name = target.removesuffix(".weight")
        yield f"{module_name}.token_adapter.trainable_tokens_delta", rows.rows
