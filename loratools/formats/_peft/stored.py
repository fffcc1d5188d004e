"""The tensors of an adapter under PEFT's names, and the config that is true of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, final

from loratools.adapter import Adapter
from loratools.formats._peft.codecs import codecs_for
from loratools.formats._peft.config_write import Contents, config_of
from loratools.formats._peft.kinds import BesideCodec, KindCodec, WrittenModule
from loratools.formats._peft.modules import common_kind, common_rule, modules_of
from loratools.io.source import Source
from loratools.parts import Update


@final
class Stored(NamedTuple):
    """What is written of an adapter.

    Attributes:
        tensors: the tensors of modules, by the names of modules and of parts.
        shared: the tensors of the whole model, by their names.
        config: the config.
    """

    tensors: Mapping[str, Source]
    shared: Mapping[str, Source]
    config: dict[str, Any]


def stored(adapter: Adapter) -> Stored:
    """The tensors and the config of an adapter, which starts from the config that was read.

    Raises:
        UnsupportedError: PEFT's format cannot store something in the adapter.
    """
    codecs = codecs_for(adapter)
    rule, kind = common_rule(adapter, codecs), common_kind(adapter, codecs)
    modules = modules_of(adapter, codecs, kind, rule)
    beside = {codec: found for codec in codecs.beside if (found := _updates(codec, modules))}
    return Stored(
        tensors=dict(_tensors(adapter, kind, modules, beside)),
        shared={} if kind is None else dict(kind.encode_shared(modules)),
        config=config_of(adapter, codecs, Contents(kind, tuple(beside), modules, rule)),
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
