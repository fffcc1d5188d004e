"""The names of adapters' files, as all dialects state them."""

from collections.abc import Collection, Iterable

from loratools.formats._by_sight import KNOWN_BY_SIGHT
from loratools.formats._dialect import Dialect


def configs_of(dialects: Iterable[Dialect]) -> tuple[str, ...]:
    """The names of the configs that lie beside adapters, each once."""
    return tuple(dict.fromkeys(d.config for d in dialects if d.config is not None))


def weights_of(dialects: Iterable[Dialect]) -> tuple[str, ...]:
    """The names of files of adapters' tensors, without their suffix, each once."""
    names = (d.weights for d in dialects if d.weights is not None)
    return tuple(dict.fromkeys(_stem(name) for name in names))


def known_weights(dialects: Collection[Dialect]) -> tuple[str, ...]:
    """The same in the order of the alphabet, with those of dialects that are known by sight."""
    readable = {dialect.name for dialect in dialects}
    seen = [s.weights for s in KNOWN_BY_SIGHT if s.weights and s.dialect not in readable]
    return tuple(sorted({*weights_of(dialects), *(_stem(name) for name in seen)}))


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name
