"""Gives adapters that name the same modules differently one spelling, without a base to ask.

Stems are compared: names up to their first number, or whole names that have none. Two stems mean
the same modules if they differ by a known prefix. They also do if all names of one adapter begin
with a module (a root) that the other adapter leaves out, unless models have that module beside
others, as an encoder is beside a decoder. Names that may mean the same, or may not, are an error.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from loratools.errors import MatchError, shorten
from loratools.names.flattened import flattened_prefix
from loratools.names.ldm import diffusers_name, is_ldm_name
from loratools.names.nestings import RENESTED, described, prefix_changes
from loratools.names.unets import UNET_ROOTS
from loratools.typed import worded

#: Names of blocks that no model has side by side. Two adapters with names of either side spell one
#: model in ways that cannot be translated, because one of them fuses modules.
_EXCLUSIVE = (
    (r"(input_blocks|middle_block|output_blocks)", r"(down_blocks|mid_block|up_blocks)"),
    (r"(double_blocks|single_blocks|joint_blocks)", r"(single_)?transformer_blocks"),
    (r"resblocks", r"encoder_layers"),
)
#: Words in the name of a module that models have beside others whose inner names are the same.
_BESIDE_OTHERS = re.compile(r"vis(ion|ual)|image|audio|speech|video|encoder|decoder|tower")


@final
@dataclass(frozen=True)
class Respelling:
    """The new names of an adapter's targets by their old ones, and the changes in words."""

    names: Mapping[str, str]
    changes: tuple[str, ...]


def respelled(names: Collection[str], reference: Collection[str], where: str) -> Respelling:
    """Spell `names` as `reference` spells the same modules.

    Raises:
        MatchError: it is unclear whether names mean the same, or two names become equal.
    """
    stems = {name: _stem(name) for name in names}
    theirs = {_stem(name): name for name in reference}
    changes = _changes(stems, theirs, reference, where)
    applied = _with_siblings(changes, stems.values(), theirs)
    used: dict[str, None] = {}
    renamed = {
        name: name if stem in theirs else _renamed(name, applied, used)
        for name, stem in stems.items()
    }
    owners: dict[str, str] = {}
    for name, new in renamed.items():
        if (other := owners.setdefault(new, name)) != name:
            raise MatchError(
                f"{where}: {shorten(other)} and {shorten(name)} both mean {shorten(new)} in the "
                f"other adapters",
                tensor=other,
            )
    own = {stems[name] if name == new else _stem(new): name for name, new in renamed.items()}
    _refuse_exclusive(own, theirs, where)
    return Respelling(renamed, tuple(used))


def in_diffusers_names(names: Iterable[str]) -> Mapping[str, str]:
    """Translate LDM's names in U-Nets to diffusers' names; all other names stay as they are."""
    return {name: diffusers_name(name) or name for name in names}


def mixes_unets(spellings: Sequence[Collection[str]]) -> bool:
    """Whether some adapters name a U-Net's blocks as LDM does, and others as diffusers does."""
    others = _words(_EXCLUSIVE[0][1])
    is_ldm = any(is_ldm_name(name) for names in spellings for name in names)
    return is_ldm and any(others.search(_stem(name)) for names in spellings for name in names)


def _changes(
    stems: Mapping[str, str], theirs: Mapping[str, str], reference: Collection[str], where: str
) -> dict[str, str]:
    """Map each prefix that has to change to the reference's prefix.

    Raises:
        MatchError: a name may mean several names of the reference, or may not mean the only one.
    """
    own = {stem: name for name, stem in stems.items()}
    others = _Others({stem: name for stem, name in theirs.items() if stem not in own})
    changes: dict[str, str] = {}
    for stem, name in own.items():
        if stem in theirs:
            continue
        found = dict(others.known(stem)) or dict(others.rooted(stem, stems, reference))
        if len(found) > 1:
            raise MatchError(
                f"{where}: {shorten(name)} may be any of {', '.join(map(shorten, found))} in the "
                f"other adapters",
                tensor=name,
            )
        for other, change in found.items():
            if change is None or changes.setdefault(change[0], change[1]) != change[1]:
                raise MatchError(
                    f"{where}: {shorten(name)} may be {shorten(other)} of another adapter, which "
                    f"cannot be told from the names",
                    tensor=name,
                    hint="rename one of them",
                )
    return changes


#: Names of the other adapters, each with the old and new prefix; None instead if the names may mean
#: the same, and nothing shows that they do.
_Found = Iterator[tuple[str, tuple[str, str] | None]]


@final
class _Others:
    """The stems that only the other adapters have, each with one name that has it."""

    def __init__(self, stems: Mapping[str, str]) -> None:
        self._stems = stems
        self._by_path: dict[str, list[str]] = {}
        self._by_ending: dict[str, list[str]] = {}
        for stem in stems:
            if head := flattened_prefix(stem):
                self._by_path.setdefault(stem.removeprefix(head), []).append(stem)
            for ending in _endings(stem):
                self._by_ending.setdefault(ending, []).append(stem)

    def known(self, stem: str) -> _Found:
        """Yield names whose stems differ from this one by a known prefix."""
        head = flattened_prefix(stem)
        path = stem.removeprefix(head)
        for change in _prefix_changes(path.replace("_", ".") if head else path):
            flat = [prefix.replace(".", "_") for prefix in change] if head else change
            old, new = (head + prefix for prefix in flat)
            if stem.startswith(old) and (other := new + stem.removeprefix(old)) in self._stems:
                yield self._stems[other], (old, new)
        for other in self._by_path.get(path, ()) if head else ():
            other_head = flattened_prefix(other)
            if not _part(stem) + _part(other):
                yield self._stems[other], (head, other_head)
            elif "lora_te_" in (head, other_head):
                # `lora_te_` is the only text encoder of SD 1, but SDXL has two: it may be either.
                yield self._stems[other], None

    def rooted(self, stem: str, names: Collection[str], reference: Collection[str]) -> _Found:
        """Yield names whose stems have this one as a suffix, or are a suffix of this one.

        The rest of the longer stem is its root. The names surely mean the same only if all names of
        that side have the root and none of the other side has, if models have no similar module
        beside it, and if the stem ends at a number. Names without a number are compared only if
        all names of one side have the root.
        """
        is_whole = not stem.endswith("#")
        longer = [(other, stem, other) for other in self._by_ending.get(stem, ())]
        shorter = [(e, e, stem) for e in _endings(stem) if e in self._stems]
        for other, ending, full in (*longer, *shorter):
            root = full.removesuffix(ending)
            inside, outside = (names, reference) if full == stem else (reference, names)
            is_root = _is_root(root, inside, outside)
            change = (root, "") if full == stem else ("", root)
            if is_root and not is_whole and _BESIDE_OTHERS.search(root) is None:
                yield self._stems[other], change
            elif is_root or not is_whole:
                yield self._stems[other], None


def _is_root(root: str, inside: Iterable[str], outside: Iterable[str]) -> bool:
    """Whether all names of one side begin with a root, and none of the other side does."""
    has_all = all(name.startswith(root) for name in inside)
    return has_all and not any(name.startswith(root) for name in outside)


def _prefix_changes(path: str) -> Iterator[tuple[str, str]]:
    """Yield the known prefixes of a name, each with a prefix that may replace it."""
    yield from prefix_changes(path)
    for old in UNET_ROOTS:
        if path.startswith(old):
            yield from ((old, new) for new in UNET_ROOTS if new != old)


def _endings(stem: str) -> Iterator[str]:
    """The suffixes of a stem that follow a dot, the longest first."""
    parts = stem.split(".")
    return (".".join(parts[begin:]) for begin in range(1, len(parts)))


def _renamed(name: str, changes: Mapping[str, str], used: dict[str, None]) -> str:
    """A name with the prefix of the reference; `used` collects the changes in words."""
    for old in sorted(changes, key=len, reverse=True):
        new = changes[old]
        has_it_already = new.startswith(old) and name.startswith(new)
        if name.startswith(old) and not has_it_already:
            used[described(old, new)] = None
            return new + name.removeprefix(old)
    return name


def _with_siblings(
    changes: Mapping[str, str], own: Collection[str], theirs: Collection[str]
) -> Mapping[str, str]:
    """The changes, completed by those that transformers made in other parts of the same models.

    If the prefix of one part changed as in `RENESTED`, the prefixes of the other parts did as well.
    """
    nested = "language_model.model."
    for pairs in (RENESTED, tuple((new, old) for old, new in RENESTED)):
        if any(pair in pairs for pair in changes.items()) or _are_of(pairs, own, theirs):
            # In models whose text part was `model.`, the head has always been beside it, so only
            # with `language_model.model.` does the head's prefix change.
            has_head_inside = any(nested in pair for pair in changes.items()) or any(
                stem.startswith(nested) for stem in (*own, *theirs)
            )
            return {
                old: new
                for old, new in pairs
                if old != "model." and (has_head_inside or "lm_head." not in (old, new))
            } | dict(changes)
    return changes


def _are_of(
    pairs: Collection[tuple[str, str]], own: Collection[str], theirs: Collection[str]
) -> bool:
    """Whether each side has names with its own prefixes, maybe in other parts of the model."""
    sides = zip(*(pair for pair in pairs if not {"model.", "lm_head."} & {*pair}), strict=True)
    return all(
        any(stem.startswith(prefixes) for stem in stems)
        for prefixes, stems in zip(sides, (own, theirs), strict=True)
    )


def _refuse_exclusive(own: Mapping[str, str], theirs: Mapping[str, str], where: str) -> None:
    for one, other in _EXCLUSIVE:
        for pattern, opposite in ((one, other), (other, one)):
            for mine, yours in _pairs(own, theirs, pattern, opposite):
                converting = worded("`loratools convert`", "convert()")
                raise MatchError(
                    f"{where}: {shorten(mine)} is a name of the blocks that {shorten(yours)} of "
                    f"another adapter names in another way",
                    tensor=mine,
                    hint=f"convert one of them first: see {converting}",
                )


def _pairs(
    own: Mapping[str, str], theirs: Mapping[str, str], pattern: str, opposite: str
) -> Iterator[tuple[str, str]]:
    """Yield pairs of names of both adapters in the same part of a model.

    The first name has a word of `pattern` in it, and the second one of `opposite`.
    """
    one, other = _words(pattern), _words(opposite)
    found = {_part(stem): name for stem, name in theirs.items() if other.search(stem)}
    for stem, name in own.items():
        if one.search(stem) and (part := _part(stem)) in found:
            yield name, found[part]


def _part(stem: str) -> str:
    """The prefix of the text encoder that a flattened name belongs to; empty for other parts."""
    head = flattened_prefix(stem)
    return head if "te" in head else ""


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
