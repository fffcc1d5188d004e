"""The dialects in which adapters are stored: a folder each, found by its name.

`formats/NAME/__init__.py` has the `DIALECT`, the description of the dialect. `--help` reads it too,
so it must not import anything large. `read.py` is a `Reader`, and `write.py` a `Writer`; it is
absent where a dialect is only read.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from loratools import registry
from loratools.errors import (
    LoratoolsError,
    NotAnAdapterError,
    OptionError,
    UnsupportedError,
    listing,
)
from loratools.formats._by_sight import KNOWN_BY_SIGHT, no_adapter, seen
from loratools.formats._dialect import (
    ALPHA,
    SCALE,
    BaseNames,
    Dialect,
    Option,
    Reader,
    Sureness,
    ToldReader,
    Writer,
)
from loratools.nearest import did_you_mean
from loratools.typed import as_typed, of_format

if TYPE_CHECKING:
    from loratools.adapter import Adapter
    from loratools.io.bundle import Bundle

__all__ = [
    "ALPHA", "KNOWN_BY_SIGHT", "SCALE", "Dialect", "Option", "Reader", "Sureness", "Writer",
    "adapter_configs", "adapter_weights", "base_names", "can_write", "check_options", "decode",
    "dialect_named", "dialect_of", "dialects", "encode", "is_adapter_file", "no_adapter",
    "options", "written",
]  # fmt: skip


@cache
def dialects() -> tuple[Dialect, ...]:
    """All dialects, sorted by name."""
    return tuple(map(dialect_named, registry.names(sys.modules[__name__])))


def dialect_named(name: str) -> Dialect:
    """The dialect of this name.

    Raises:
        UnsupportedError: no dialect has this name.
    """
    dialect: Dialect = registry.load(sys.modules[__name__], name).DIALECT
    return dialect


def written() -> tuple[Dialect, ...]:
    """The dialects in which any adapter can be written that they can hold, sorted by name."""
    return tuple(dialect for dialect in dialects() if dialect.writes)


def options() -> tuple[Option, ...]:
    """The options of all dialects, in the order of the dialects; one that several share is once."""
    return tuple(dict.fromkeys(option for dialect in dialects() for option in dialect.options))


def adapter_configs() -> tuple[str, ...]:
    """The names of the config files that dialects keep beside the tensors: `adapter_config.json`.

    They are in the order of the dialects, without repetitions.
    """
    return tuple(dict.fromkeys(d.config for d in dialects() if d.config is not None))


def adapter_weights() -> tuple[str, ...]:
    """The names of the weights files in adapters' folders, without suffix: `adapter_model`.

    They are sorted, and include the names of dialects that loratools recognises but cannot read.
    """
    readable = {dialect.name for dialect in dialects()}
    by_sight = (s.weights for s in KNOWN_BY_SIGHT if s.dialect not in readable)
    stated = (dialect.weights for dialect in dialects())
    return tuple(sorted({_stem(name) for name in (*stated, *by_sight) if name}))


def is_adapter_file(name: str) -> bool:
    """Whether a file's name is that of an adapter's weights, of one shard, or of their index."""
    stems = [_stem(dialect.weights) for dialect in dialects() if dialect.weights]
    return name.startswith(tuple(f"{stem}{mark}" for stem in stems for mark in ".-"))


def decode(bundle: "Bundle", options: Mapping[str, str] | None = None) -> "Adapter":
    """The adapter in `bundle`, decoded by the dialect that is surest that the files are its own.

    `options` may be options of any dialect: one command may read adapters of several. Those that
    change nothing here are named in notes.

    Raises:
        FormatError: the files contradict the dialect's rules, or two tensors have the same name.
        OptionError: no dialect has such an option, or the option does not have this value.
        UnsupportedError: no dialect claims the files, two dialects are equally sure, or the dialect
            cannot read this kind of update.
    """
    from loratools.formats._passengers import Passengers
    from loratools.formats._unused import unused_options
    from loratools.formats._unwrapped import unwrapped_names

    check_options(options or {})
    passengers = Passengers(bundle)
    names = unwrapped_names(passengers.rest, [dialect.prefix for dialect in dialects()])
    with _explained(names.bundle):
        dialect = _told(names.bundle, options or {}) or _surest(names.bundle)
        bundle, renamed = names.with_config(dialect.module_fields)
        adapter = passengers.beside(_decoded(dialect, bundle, options or {}), bundle)
    unused = tuple(unused_options(adapter, dialect, options or {}, dialects()))
    return replace(
        adapter,
        notes=(*renamed, *unused, *adapter.notes),
        renamed=renamed,
        unused=unused,
        model_config=bundle.model_config,
    )


def check_options(given: Mapping[str, str]) -> None:
    """Check that every option exists in some dialect, and can have its value.

    Raises:
        OptionError: no dialect has such an option, or the option does not have this value.
    """
    owners = {option: dialect for dialect in dialects() for option in dialect.options}
    known = {option.name: (dialect, option) for option, dialect in owners.items()}
    for name, value in given.items():
        if name not in known:
            raise OptionError(
                f"{name!r:.60} is an option of no format",
                hint=f"there is {listing(known) or 'none'}{did_you_mean(name, known)}",
            )
        dialect, option = known[name]
        if not option.takes(value):
            raise OptionError(
                f"{as_typed(name)} of the format {dialect.name} is {option.choices}, "
                f"not {value!r:.60}"
                f"{did_you_mean(str(value), option.values)}"
            )


def base_names(options: Mapping[str, str]) -> BaseNames | None:
    """The function from the keys of a file to the names of the model in it, which options describe.

    It leaves out the keys of the adapter. None where no option says that the file holds a model.
    """
    reader = next((_told_reader(d) for d in dialects() if _is_told(d, options)), None)
    return None if reader is None else reader.base_names(options)


def encode(adapter: "Adapter", dialect: str | None = None) -> "Bundle":
    """The files of `adapter` in a dialect, by default the one that it was read from.

    In another dialect, and where the adapter has no `filed`, only its canonical parts are written.
    No tensor is computed before it is read.

    Raises:
        UnsupportedError: the dialect cannot store something in the adapter, or does not exist.
    """
    from loratools.formats._passengers import with_passengers

    name = dialect_of(adapter, dialect).name
    if adapter.filed is not None and adapter.filed.dialect != name:
        adapter = replace(adapter, filed=None)
    writer: Writer = importlib.import_module(f"{__name__}.{name}.write")
    return with_passengers(writer.encode(adapter), adapter)


def dialect_of(adapter: "Adapter", name: str | None = None) -> Dialect:
    """The dialect in which an adapter is written: the named one, or the one it was read from.

    Raises:
        UnsupportedError: no dialect has this name, or none is named and the adapter was not read
            from files; or the dialect is only read.
    """
    if name is None:
        if adapter.filed is None:
            raise UnsupportedError(
                f"{adapter.where}: was read in no format", hint="say which to write"
            )
        name = adapter.filed.dialect
    dialect = dialect_named(name)
    if not can_write(dialect):
        others = listing(other.name for other in written())
        raise UnsupportedError(
            f"{adapter.where}: the format {name} is read and not written: written are {others}",
            hint="see convert",
        )
    return dialect


def can_write(dialect: Dialect) -> bool:
    """Whether a dialect is written too, and not only read."""
    return importlib.util.find_spec(f"{__name__}.{dialect.name}.write") is not None


def _reader(dialect: Dialect) -> Reader:
    reader: Reader = importlib.import_module(f"{__name__}.{dialect.name}.read")
    return reader


def _told(bundle: "Bundle", options: Mapping[str, str]) -> Dialect | None:
    """The dialect that an option says the files are in; None where no option says so.

    An option is for all adapters of a command, so it says nothing of files that have no key that
    it speaks of and that another dialect claims.
    """
    for dialect in dialects():
        if _is_told(dialect, options) and (
            _told_reader(dialect).fits(bundle, options) or not any(_claims(bundle).values())
        ):
            return dialect
    return None


def _is_told(dialect: Dialect, options: Mapping[str, str]) -> bool:
    return any(option.decides and option.name in options for option in dialect.options)


def _told_reader(dialect: Dialect) -> ToldReader:
    reader: ToldReader = importlib.import_module(f"{__name__}.{dialect.name}.read")
    return reader


def _claims(bundle: "Bundle") -> dict[Dialect, Sureness]:
    """How sure the dialects are; those without a config are not asked where a config decides."""
    with_config = [dialect for dialect in dialects() if dialect.config is not None]
    claims = {dialect: _reader(dialect).claim(bundle) for dialect in with_config}
    if Sureness.CONFIG in claims.values():
        return claims
    return {d: claims[d] if d in claims else _reader(d).claim(bundle) for d in dialects()}


def _surest(bundle: "Bundle") -> Dialect:
    """The dialect that is surest that the files of a bundle are its own.

    Raises:
        UnsupportedError: no dialect claims them, or two are equally sure.
    """
    claims = _claims(bundle)
    surest = max(claims.values(), default=Sureness.NO)
    found = [dialect for dialect, claim in claims.items() if claim == surest]
    names = [dialect.name for dialect in found]
    if surest is Sureness.NO and (what := no_adapter(bundle.tensors)):
        raise NotAnAdapterError(f"{bundle.where}: {what}")
    if surest is Sureness.NO:
        what, _, advice = _appearance(bundle, names).partition("; ")
        reads = f"loratools reads {', '.join(names)}"
        raise UnsupportedError(
            f"{bundle.where}: {what}", hint=f"{advice}; {reads}" if advice else reads
        )
    if len(found) > 1:
        raise UnsupportedError(
            f"{bundle.where}: could be in the format {' or '.join(names)}, and nothing makes one "
            f"of them likelier",
            hint="remove what does not belong to it, a config or some of the tensors",
        )
    return found[0]


def _decoded(dialect: Dialect, bundle: "Bundle", options: Mapping[str, str]) -> "Adapter":
    """The adapter in `bundle`; any error names its file, and options have their defaults."""
    values = {option.name: options.get(option.name, option.default) for option in dialect.options}
    given = {name: value for name, value in values.items() if value is not None}
    try:
        return _reader(dialect).decode(bundle, given)
    except LoratoolsError as error:
        if error.file is not None or bundle.where in str(error):
            raise
        # Errors of updates name the keys of tensors: an update does not know its file.
        raise error.within(bundle.where) from error


@contextmanager
def _explained(bundle: "Bundle") -> Iterator[None]:
    """Add to the error of a bundle that cannot be decoded that it was not saved whole, if so."""
    try:
        yield
    except LoratoolsError as error:
        from loratools.formats._gathered import ungathered

        reason = ungathered(bundle)
        if reason is None:
            raise
        raise type(error)(
            error.complaint, file=error.file, tensor=error.tensor, hint=reason
        ) from error


def _appearance(bundle: "Bundle", readable: Iterable[str]) -> str:
    """A description, for an error, of files that no dialect claims."""
    if not bundle.tensors:
        return "holds no tensors"
    if name := seen(bundle.tensors, readable):
        return f"looks like {name}, which cannot be read yet"
    return (
        f"not an adapter of a known kind (it holds {listing(bundle.tensors, 3)}); "
        f"{of_format('keys')} describes the keys of home-made LoRA layers"
    )


def _stem(name: str) -> str:
    # pathlib would add 3 ms to the --help of commands.
    return name.rpartition(".")[0] or name
