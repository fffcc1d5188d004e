"""Adapters that spell the same modules in different ways, brought to one spelling without a base.

What can be compared are stems: names up to their first number, or whole names that have none. Two
stems mean the same modules if they differ by a known prefix, or if all of one adapter is in a
module that the other leaves out. What only may mean the same is an error.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from loratools.errors import MatchError, shorten
from loratools.names.flattened import flattened_prefix
from loratools.names.ldm import diffusers_name, is_ldm_name
from loratools.names.matching import RENESTED, described, prefix_changes

#: Names of blocks that no model has side by side: one model in two spellings, with parts fused.
_EXCLUSIVE = (
    (r"(input_blocks|middle_block|output_blocks)", r"(down_blocks|mid_block|up_blocks)"),
    (r"(double_blocks|single_blocks|joint_blocks)", r"(single_)?transformer_blocks"),
    (r"resblocks", r"encoder_layers"),
)


@final
@dataclass(frozen=True)
class Respelling:
    """New names of an adapter's targets, and how they changed in words."""

    names: Mapping[str, str]
    changes: tuple[str, ...]


def respelled(names: Collection[str], reference: Collection[str], where: str) -> Respelling:
    """`names` as the reference spells them.

    Raises:
        MatchError: it cannot be told whether names mean the same, or two become one.
    """
    changes = dict(_changes(names, reference, where))
    stems = {_stem(name) for name in reference}
    applied = _with_siblings(changes)
    renamed = {name: _renamed(name, applied, stems) for name in names}
    owners: dict[str, str] = {}
    for name, new in renamed.items():
        if (other := owners.setdefault(new, name)) != name:
            raise MatchError(
                f"{where}: {shorten(other)} and {shorten(name)} both mean {shorten(new)} in the "
                f"other adapters"
            )
    _refuse_exclusive(renamed.values(), reference, where)
    used = dict.fromkeys(described(old, new) for old, new in changes.items())
    return Respelling(renamed, tuple(used))


def in_diffusers_names(names: Iterable[str]) -> Mapping[str, str]:
    """Names of U-Nets of Stable Diffusion as diffusers has them, and all others as they are."""
    return {name: diffusers_name(name) or name for name in names}


def mixes_unets(spellings: Sequence[Collection[str]]) -> bool:
    """Whether some names of blocks of a U-Net are LDM's, and others diffusers'."""
    others = _words(_EXCLUSIVE[0][1])
    is_ldm = any(is_ldm_name(name) for names in spellings for name in names)
    return is_ldm and any(others.search(_stem(name)) for names in spellings for name in names)


def _changes(
    names: Collection[str], reference: Collection[str], where: str
) -> Iterator[tuple[str, str]]:
    """Each prefix that the reference has another one for, and that one."""
    own = {_stem(name): name for name in names}
    theirs = {_stem(name): name for name in reference}
    new = {stem: name for stem, name in theirs.items() if stem not in own}
    for stem, name in own.items():
        if stem in theirs:
            continue
        found = dict(_known_changes(stem, new)) or dict(_roots(stem, new, names, reference))
        if len(found) > 1:
            raise MatchError(
                f"{where}: {shorten(name)} may be any of {', '.join(map(shorten, found))} in the "
                f"other adapters"
            )
        for other, change in found.items():
            if change is None:
                raise MatchError(
                    f"{where}: {shorten(name)} may be {shorten(other)} of another adapter, which "
                    f"cannot be told from the names; rename one of them"
                )
            yield change


def _known_changes(
    stem: str, theirs: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """Names of the others whose stem differs by a known prefix; None where only that is known."""
    head = flattened_prefix(stem)
    if not head:
        for old, new in prefix_changes(stem):
            if (other := new + stem.removeprefix(old)) in theirs:
                yield theirs[other], (old, new)
        return
    path = stem.removeprefix(head)
    for dotted in prefix_changes(path.replace("_", ".")):
        old, new = (head + prefix.replace(".", "_") for prefix in dotted)
        if stem.startswith(old) and (other := new + stem.removeprefix(old)) in theirs:
            yield theirs[other], (old, new)
    for other, name in theirs.items():
        other_head = flattened_prefix(other)
        if other_head and other.removeprefix(other_head) == path:
            if "te" not in head + other_head:
                yield name, (head, other_head)
            elif "lora_te_" in (head, other_head):
                yield name, None  # the one encoder of SD 1, and one of the two of SDXL


def _roots(
    stem: str, theirs: Mapping[str, str], names: Collection[str], reference: Collection[str]
) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """Names of the others that end with the stem, or with which it ends, if all have that root."""
    if flattened_prefix(stem):
        return
    for other, name in theirs.items():
        if other.endswith(f".{stem}"):
            old, new, longer, shorter = "", other[: -len(stem)], reference, names
        elif stem.endswith(f".{other}"):
            old, new, longer, shorter = stem[: -len(other)], "", names, reference
        else:
            continue
        root = old or new
        if all(n.startswith(root) for n in longer) and not any(n.startswith(root) for n in shorter):
            yield name, (old, new) if stem.endswith("#") else None


def _renamed(name: str, changes: Mapping[str, str], stems: Collection[str]) -> str:
    """A name with the prefix of the reference, unless that has its stem."""
    if _stem(name) in stems:
        return name
    for old in sorted(changes, key=len, reverse=True):
        new = changes[old]
        has_it_already = new.startswith(old) and name.startswith(new)
        if name.startswith(old) and not has_it_already:
            return new + name.removeprefix(old)
    return name


def _with_siblings(changes: Mapping[str, str]) -> Mapping[str, str]:
    """The changes, and those that the same renesting of a model made elsewhere in it."""
    nested = "language_model.model."
    for pairs in (RENESTED, tuple((new, old) for old, new in RENESTED)):
        if any(pair in pairs for pair in changes.items()):
            # Models whose text part was called `model.` had their head beside it all along.
            has_head_inside = any(nested in pair for pair in changes.items())
            return {
                old: new
                for old, new in pairs
                if old != "model." and (has_head_inside or "lm_head." not in (old, new))
            } | dict(changes)
    return changes


def _refuse_exclusive(names: Iterable[str], reference: Iterable[str], where: str) -> None:
    own, theirs = ({_stem(name): name for name in group} for group in (names, reference))
    for one, other in _EXCLUSIVE:
        for pattern, opposite in ((one, other), (other, one)):
            for mine, yours in _pairs(own, theirs, pattern, opposite):
                raise MatchError(
                    f"{where}: {shorten(mine)} is a name of the blocks that {shorten(yours)} of "
                    f"another adapter names in another way; combine adapters of one spelling"
                )


def _pairs(
    own: Mapping[str, str], theirs: Mapping[str, str], pattern: str, opposite: str
) -> Iterator[tuple[str, str]]:
    for stem, mine in own.items():
        if not _words(pattern).search(stem):
            continue
        for other, yours in theirs.items():
            same_part = flattened_prefix(stem) == flattened_prefix(other)
            if same_part and _words(opposite).search(other):
                yield mine, yours


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|[._]){pattern}(?:[._#]|$)")


def _stem(name: str) -> str:
    """A name up to its first number, for which `#` stands; the whole name if it has none.

    >>> _stem("model.layers.10.q.weight"), _stem("lora_te1_text_model_encoder_layers_0_fc1.weight")
    ('model.layers.#', 'lora_te1_text_model_encoder_layers_#')
    """
    head = flattened_prefix(name)
    number = re.search(
        r"(?<=_)\d+(?=[_.])" if head else r"(?:^|(?<=\.))\d+(?=\.)", name[len(head) :]
    )
    return name if number is None else f"{name[: len(head) + number.start()]}#"
