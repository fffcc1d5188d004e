"""Removes the names of wrappers that programs put around modules while they run.

State dicts are stored with the wrappers in their names, and a module shall have one name. Wrappers
that begin with an underscore are never names of modules, and are removed wherever they stand.
`module` can also be the name of a module. It is a wrapper only if every name of a model begins with
it, because a wrapper around a model has all of it inside.
"""

import re
from collections.abc import Iterable, Mapping

from loratools.errors import FormatError, counted, shorten

_WRAPPERS = (
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module",  # FSDP of PyTorch, FairScale and torch_xla
    "_fpw_module",  # flattened parameters inside FSDP of FairScale and torch_xla
    "_checkpoint_wrapped_module",  # checkpointing and offloading of activations
    "_forward_module",  # Lightning Fabric
    "_original_module",  # Lightning Fabric
    "_orig_module",  # torch_xla's FSDP by SPMD
)
#: The wrapper of DistributedDataParallel, DataParallel, DeepSpeed's engine and averaged models.
_WHOLE = "module."
_ANY = "|".join(_WRAPPERS)
_MARKS = (*_WRAPPERS, "module.", "module_")
#: Each of `_MARKS` contains one of these two, which are faster to look for.
_IN_MARKS = ("_orig_mod", "module")
_MARK = re.compile(_ANY)
#: A wrapper in a flattened name, where the dots on both sides are underscores too.
_FLATTENED = re.compile(rf"(?<=_)({_ANY})_|_({_ANY})$")
#: A wrapper in a pattern, with the dot after it or, at the end, the dot before it.
_IN_PATTERN = re.compile(
    rf"\\?\.({_ANY})(?=$|[)|])|(?<!\w)({_ANY})(?!\w)(\\\.|\[\.\]|\.(?![*+?{{]))?"
)


def may_be_wrapped(names: Iterable[str]) -> bool:
    """Whether any of the names may contain a wrapper: a quick test of all names at once."""
    text = "\n".join(names)
    return any(part in text for part in _IN_MARKS) and any(mark in text for mark in _MARKS)


def unwrapped(name: str) -> str:
    """Remove the wrappers that begin with an underscore from a dotted or flattened name.

    >>> unwrapped("model._orig_mod.layers.0.q"), unwrapped("lora_unet__orig_mod_mid_block")
    ('model.layers.0.q', 'lora_unet_mid_block')
    """
    if _MARK.search(name) is None:
        return name
    parts = (part for part in name.split(".") if part not in _WRAPPERS)
    return ".".join(_FLATTENED.sub("", part) for part in parts)


def unwrapped_pattern(pattern: str) -> str:
    r"""Remove such wrappers from a config's name of modules, or from its regular expression.

    >>> unwrapped_pattern(r".*\._orig_mod\.layers\.\d+"), unwrapped_pattern("q_proj._orig_mod")
    ('.*\\.layers\\.\\d+', 'q_proj')
    """
    return _IN_PATTERN.sub("", pattern)


def plain_names(names: Iterable[str], where: str) -> Mapping[str, str]:
    """Map the stored names of a model's tensors to the names without wrappers.

    Raises:
        FormatError: two names are equal without wrappers.
    """
    plain = {name: unwrapped(name) for name in names}
    while plain and all(short.startswith(_WHOLE) for short in plain.values()):
        plain = {name: short.removeprefix(_WHOLE) for name, short in plain.items()}
    return distinct(plain, where)


def distinct(plain: Mapping[str, str], where: str) -> Mapping[str, str]:
    """Return `plain`, a map of stored names to names without wrappers, if these are distinct.

    Raises:
        FormatError: two names are equal without wrappers.
    """
    owners: dict[str, str] = {}
    for name, short in plain.items():
        if (other := owners.setdefault(short, name)) != name:
            raise FormatError(
                f"{where}: {shorten(other)} and {shorten(name)} are both {shorten(short)}, "
                f"without the wrappers in their names",
                tensor=other,
            )
    return plain


def renaming(plain: Mapping[str, str]) -> str | None:
    """A note that wrappers were removed from names, with an example; None if there were none."""
    changed = [name for name, short in plain.items() if name != short]
    if not changed:
        return None
    example = f"{shorten(changed[0])} is {shorten(plain[changed[0]])}"
    names = counted(len(changed), "name is", "names are")
    return f"{names} read without the wrappers of a running program ({example})"
