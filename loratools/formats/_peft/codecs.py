"""The codecs of each `peft_type`, and the choice of the codec for a module's tensors."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import final

from loratools import registry
from loratools.adapter import Adapter
from loratools.errors import FormatError, UnsupportedError, listing, shorten
from loratools.formats._peft import kinds
from loratools.formats._peft.kinds import Announcement, BesideCodec, Codec, Form, KindCodec
from loratools.formats._peft.peft_type import PeftType
from loratools.formats._peft.refusals import type_refused
from loratools.io.source import Source


@final
class Codecs:
    """The codecs of one `peft_type`.

    `kinds` are the codecs of kinds of update to a weight, and `beside` those of parts that change
    another parameter of the same module. A role is the name of a part of a module, and a form the
    roles that are one update together.
    """

    def __init__(self, type: PeftType, codecs: Sequence[Codec]) -> None:
        self.type = type
        self.kinds = tuple(codec for codec in codecs if isinstance(codec, KindCodec))
        self.beside = tuple(codec for codec in codecs if isinstance(codec, BesideCodec))

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """The roles of all parts that a module may have."""
        return tuple(dict.fromkeys(r for codec in (*self.kinds, *self.beside) for r in codec.roles))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The roles as keys spell them: a bias has the name of the part that it belongs to."""
        return tuple(dict.fromkeys(role.removesuffix(".bias") for role in self.roles))

    @cached_property
    def part(self) -> re.Pattern[str]:
        """Match the key, without PEFT's prefix, of a part of a module.

        The name of the adapter may follow the part. It is never `weight` or `bias`.
        """
        names = "|".join(map(re.escape, self.names))
        return re.compile(
            rf"(?P<module>.+?)\.(?P<role>{names})"
            r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?:\.(?P<parameter>weight|bias))?"
        )

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """Prefixes of the parts' names: a key that contains none of them is not that of a part."""
        return tuple(dict.fromkeys("".join(name.partition("_")[:2]) for name in self.names))

    @property
    def announced(self) -> Iterator[tuple[Codec, Announcement]]:
        """The codecs of parts that a field of the config announces, with that field."""
        for codec in (*self.kinds, *self.beside):
            if codec.announced is not None:
                yield codec, codec.announced

    def flags(self) -> tuple[str, ...]:
        """The fields of which PEFT asks only whether they are truthy."""
        flags = (how.field for _, how in self.announced if not how.settings)
        return tuple(dict.fromkeys((*flags, *self.type.flags)))

    def kind_of(self, where: str, module: str, roles: Mapping[str, Source]) -> KindCodec:
        """The codec of the kind of update that a module's tensors form.

        Raises:
            FormatError: some of its tensors are missing.
            UnsupportedError: there are parts of two updates, or a part that PEFT never writes.
        """
        # Nearly all modules have exactly the parts of a form.
        kind = self._by_roles.get(frozenset(roles))
        return kind or self._kind_with_parts_beside(f"{where}: {shorten(module)}", roles)

    @cached_property
    def _by_roles(self) -> Mapping[frozenset[str], KindCodec]:
        return {frozenset(form): kind for kind in self.kinds for form in kind.forms}

    def _kind_with_parts_beside(self, where: str, roles: Iterable[str]) -> KindCodec:
        """The codec of a module that has a whole form and parts beside it; else an error."""
        for role in roles:
            if role not in self.roles:
                raise UnsupportedError(f"{where}: a bias on {role.removesuffix('.bias')}")
        form = self._nearest_form(roles)
        missing = [role for role in form if role not in roles]
        others = [role for role in roles if role not in form]
        if missing:
            has = next((role for role in form if role in roles), (*others, "")[0])
            raise FormatError(f"{where} has {has} and no {missing[0]}: half an update")
        fitting = {codec.role for codec in self.beside if {*codec.form} <= {*form}}
        for role in others:
            if role not in fitting:
                raise UnsupportedError(
                    f"{where}: {role} beside {listing(form)}, which are parts of two updates"
                )
        return self._by_roles[frozenset(form)]

    def _nearest_form(self, roles: Iterable[str]) -> Form:
        """The form that shares the most roles with `roles`, and of those the shortest."""
        forms = [form for kind in self.kinds for form in kind.forms]
        found = [sum(role in roles for role in form) for form in forms]
        return min(zip(found, forms, strict=True), key=lambda pair: (-pair[0], len(pair[1])))[1]


def codecs_of(peft_type: object) -> Codecs:
    """The codecs of a `peft_type`.

    Raises:
        UnsupportedError: the type has no codecs.
    """
    known = _all_codecs()
    if not is_known(peft_type):
        raise UnsupportedError(type_refused(peft_type, tuple(known)))
    return known[str(peft_type)]


def is_known(peft_type: object) -> bool:
    """Whether a `peft_type` has codecs."""
    return isinstance(peft_type, str) and peft_type in _all_codecs()


def has_part(keys: Iterable[str]) -> bool:
    """Whether a key has the name of a part of a module, in any type."""
    return any(map(_part_of(registry.names(kinds)).search, keys))


def codecs_for(adapter: Adapter) -> Codecs:
    """The codecs of the `peft_type` that an adapter is written as.

    This is the type that can store most of its kinds of update. Of equals, the type that the
    adapter was read with comes first, and then LORA.
    """
    known = _all_codecs()
    config = adapter.filed.config if adapter.filed is not None else None
    filed = (config or {}).get("peft_type")
    deltas = {type(update.delta): update.delta for update in adapter.updates.values()}

    def lacking(codecs: Codecs) -> tuple[int, bool, bool]:
        takers = (*codecs.kinds, *codecs.beside)
        others = sum(not any(codec.takes(d) for codec in takers) for d in deltas.values())
        return others, codecs.type.name != filed, codecs.type.name != _USUAL

    return min(known.values(), key=lacking)


#: The type of an adapter that was read with no type, where several types could store it.
_USUAL = "LORA"


def _all_codecs() -> Mapping[str, Codecs]:
    return _loaded(registry.names(kinds))


@cache
def _part_of(names: tuple[str, ...]) -> re.Pattern[str]:
    parts = (name for codecs in _loaded(names).values() for name in codecs.names)
    return re.compile(rf"\.({'|'.join(map(re.escape, parts))})(\.|$)")


@cache
def _loaded(names: tuple[str, ...]) -> Mapping[str, Codecs]:
    """The codecs of the modules of `kinds` with these names, by `peft_type`."""
    found: dict[str, list[Codec]] = {}
    for name in names:
        codec: Codec = registry.load(kinds, name).CODEC
        found.setdefault(codec.peft_type.name, []).append(codec)
    return {name: Codecs(some[0].peft_type, some) for name, some in found.items()}
