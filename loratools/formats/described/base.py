"""The model in a state dict that holds an adapter's layers too, under the names of a clean model.

`base={target}.layer` says that a home-made layer `fc1` has the module that it changes inside, as
`fc1.layer`: `fc1.layer.weight` and `fc1.layer.bias` are `fc1.weight` and `fc1.bias` without it. A
pattern may also be the key of the weight itself, as in torch's parametrizations:
`base={target}.parametrizations.weight.original`.
"""

from collections.abc import Collection, Mapping

from loratools.errors import FormatError, shorten
from loratools.formats.described.description import Description, Pattern

_WEIGHT = ".weight"


def clean_names(
    description: Description, base: Pattern, keys: Collection[str]
) -> Mapping[str, str]:
    """The keys that belong to the model, each with its name there; those of factors are left out.

    Raises:
        FormatError: a layer has no weight inside, no key fits, or two tensors get the same name.
    """
    split = {key: description.split(key) for key in keys}
    targets = {found[0] for found in split.values() if found is not None}
    if not targets:
        raise FormatError(f"no key fits {description.listed}")
    for target in targets:
        if weight_of(base, target, keys) is None:
            raise FormatError(
                f"{shorten(target)}: has factors, and no weight inside, as base={base} says",
                tensor=target,
            )
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for key in (key for key, found in split.items() if found is None):
        name = names[key] = _clean(key, base, targets)
        if (other := owners.setdefault(name, key)) != key:
            raise FormatError(
                f"{shorten(other)} and {shorten(key)} are both {shorten(name)}", tensor=other
            )
    return names


def weight_of(base: Pattern, target: str, keys: Collection[str]) -> str | None:
    """The key of the weight that a layer changes; None if it is not there."""
    whole, inside = base.key(target), base.key(target) + _WEIGHT
    return next((key for key in (whole, inside) if key in keys), None)


def _clean(key: str, base: Pattern, targets: Collection[str]) -> str:
    if (target := base.target(key)) in targets:
        return f"{target}{_WEIGHT}"
    module = Pattern(base.before, base.after.removesuffix(_WEIGHT))
    inside, _, leaf = key.rpartition(".")
    return f"{target}.{leaf}" if (target := module.target(inside)) in targets else key
