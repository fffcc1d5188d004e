"""Wrappers that programs put around modules while they run, and that stored names still have.

A module has one name: the one without them. Those that begin with an underscore are no names of
modules, and are left out wherever they stand. `module` can be the name of a module as well. It is
a wrapper where every name of a model begins with it: what wraps a model wraps all of it.
"""

import re
from collections.abc import Iterable, Mapping

from loratools.errors import FormatError, shorten

_WRAPPERS = (
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module",  # PyTorch's FSDP, FairScale's, and that of torch_xla
    "_fpw_module",  # the flattened parameters inside those of the latter two
    "_checkpoint_wrapped_module",  # checkpointing and offloading of activations
    "_forward_module",  # Lightning Fabric
    "_original_module",  # Lightning Fabric
    "_orig_module",  # torch_xla's FSDP by SPMD
)
#: DistributedDataParallel, DataParallel, DeepSpeed's engine, averaged models.
_WHOLE = "module."
_ANY = "|".join(_WRAPPERS)
_MARKS = (*_WRAPPERS, "module.", "module_")
#: One of these is in each mark.
_IN_MARKS = ("_orig_mod", "module")
_MARK = re.compile(_ANY)
#: In a flattened name, where the dots at both sides are underscores too.
_FLATTENED = re.compile(rf"(?<=_)({_ANY})_|_({_ANY})$")
#: In a pattern, with the dot that belongs to it: the one after, or at an end the one before.
_IN_PATTERN = re.compile(
    rf"\\?\.({_ANY})(?=$|[)|])|(?<!\w)({_ANY})(?!\w)(\\\.|\[\.\]|\.(?![*+?{{]))?"
)


def may_be_wrapped(names: Iterable[str]) -> bool:
    """Whether any of the names has what a wrapper is called by: a quick look at all of them."""
    text = "\n".join(names)
    return any(part in text for part in _IN_MARKS) and any(mark in text for mark in _MARKS)


def unwrapped(name: str) -> str:
    """A name, dotted or flattened, without the wrappers that begin with an underscore.

    >>> unwrapped("model._orig_mod.layers.0.q"), unwrapped("lora_unet__orig_mod_mid_block")
    ('model.layers.0.q', 'lora_unet_mid_block')
    """
    if _MARK.search(name) is None:
        return name
    parts = (part for part in name.split(".") if part not in _WRAPPERS)
    return ".".join(_FLATTENED.sub("", part) for part in parts)


def unwrapped_pattern(pattern: str) -> str:
    r"""The same of a name of a config, or of a regular expression that names are matched with.

    >>> unwrapped_pattern(r".*\._orig_mod\.layers\.\d+"), unwrapped_pattern("q_proj._orig_mod")
    ('.*\\.layers\\.\\d+', 'q_proj')
    """
    return _IN_PATTERN.sub("", pattern)


def plain_names(names: Iterable[str], where: str) -> Mapping[str, str]:
    """The names of a model's tensors as they are stored, and each without wrappers.

    Raises:
        FormatError: two of them are the same without.
    """
    plain = {name: unwrapped(name) for name in names}
    while plain and all(short.startswith(_WHOLE) for short in plain.values()):
        plain = {name: short.removeprefix(_WHOLE) for name, short in plain.items()}
    return distinct(plain, where)


def distinct(plain: Mapping[str, str], where: str) -> Mapping[str, str]:
    """`plain`, of which no two names may have become the same.

    Raises:
        FormatError: two have.
    """
    owners: dict[str, str] = {}
    for name, short in plain.items():
        if (other := owners.setdefault(short, name)) != name:
            raise FormatError(
                f"{where}: {shorten(other)} and {shorten(name)} are both {shorten(short)}, "
                f"without the wrappers in their names"
            )
    return plain


def renaming(plain: Mapping[str, str]) -> str | None:
    """What is to be said of names that had wrappers; None if none had."""
    changed = [name for name, short in plain.items() if name != short]
    if not changed:
        return None
    example = f"{shorten(changed[0])} is {shorten(plain[changed[0]])}"
    names = "1 name is" if len(changed) == 1 else f"{len(changed)} names are"
    return f"{names} read without the wrappers of a running program ({example})"
