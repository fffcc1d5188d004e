"""The model in a state dict that holds an adapter's layers too, under the names of a clean model.

`base={target}.layer` says that a home-made layer `fc1` has the module that it changes inside, as
`fc1.layer`: `fc1.layer.weight` and `fc1.layer.bias` are `fc1.weight` and `fc1.bias` without it.
"""

from collections.abc import Collection, Mapping

from loratools.errors import FormatError, shorten
from loratools.formats.described.description import Description, Pattern


def clean_names(
    description: Description, base: Pattern, keys: Collection[str]
) -> Mapping[str, str]:
    """The keys that belong to the model, each with its name there; those of factors are left out.

    Raises:
        FormatError: a layer has no weight inside, no key fits, or two tensors get the same name.
    """
    module = Pattern(base.before, base.after.removesuffix(".weight"))
    split = {key: description.split(key) for key in keys}
    targets = {found[0] for found in split.values() if found is not None}
    if not targets:
        raise FormatError(f"no key fits {str(description).replace(chr(10), ', ')}")
    for target in targets:
        if (weight := f"{module.key(target)}.weight") not in split:
            raise FormatError(
                f"{shorten(target)}: has factors, and no {shorten(weight)}, as base={base} says"
            )
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for key in (key for key, found in split.items() if found is None):
        name = names[key] = _clean(key, module, targets)
        if (other := owners.setdefault(name, key)) != key:
            raise FormatError(f"{shorten(other)} and {shorten(key)} are both {shorten(name)}")
    return names


def _clean(key: str, module: Pattern, targets: Collection[str]) -> str:
    inside, _, leaf = key.rpartition(".")
    target = module.target(inside)
    return f"{target}.{leaf}" if target in targets else key
