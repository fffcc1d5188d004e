"""Which stored parts make up the update of a module."""

from collections.abc import Mapping

from loratools.errors import FormatError, UnsupportedError, shorten
from loratools.io.source import Source

_LINEAR = ("lora_A", "lora_B")
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
