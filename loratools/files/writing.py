"""Write an adapter in a dialect: a folder or a file, complete or not at all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast, final

from loratools.adapter import Adapter
from loratools.errors import OutputError, UnsupportedError, counted
from loratools.files.decoded import as_read_back
from loratools.files.outputs import check_output, says_folder
from loratools.files.place import local_paths, origins
from loratools.files.tensors import layout_of, write_tensors
from loratools.formats import Dialect, decode, dialect_of, encode
from loratools.idle import NOTHING_LEFT, by_reason, idle_updates
from loratools.io.bundle import Bundle
from loratools.io.collector import collector_paused
from loratools.io.dtypes import nbytes
from loratools.io.file import InputFile
from loratools.io.json import encode_json, json_text
from loratools.io.publish import Staging, staged
from loratools.io.source import Source, stored_tensors
from loratools.io.writer import Layout
from loratools.running.share import Map

if TYPE_CHECKING:
    from loratools.lowrank.ranks import RankRule

_SLACK_BYTES = 2**20


@final
@dataclass(frozen=True)
class Written:
    """An adapter that was written: its path, and the size of its file of tensors in bytes.

    `idle` says which of its updates change nothing, whatever the base is, and why.
    """

    path: str
    nbytes: int
    idle: tuple[str, ...] = ()


class Files(NamedTuple):
    """The content of an adapter's files, and the dialect that they are in."""

    bundle: Bundle
    dialect: Dialect


class Printable(Protocol):
    """A verb's report, which can be printed as JSON."""

    def to_json(self) -> dict[str, Any]:
        """The report as the documented JSON object."""
        ...


class Report(Printable, Protocol):
    """The report of a verb that makes an adapter: a dataclass with these fields."""

    @property
    def written(self) -> Written | None:
        """The adapter that was written; None as long as nothing is."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on what is odd about the adapter."""
        ...


_Printable = TypeVar("_Printable", bound=Printable)
_Report = TypeVar("_Report", bound=Report)


def write_reported(
    report: _Report,
    adapter: Adapter,
    output: str | Path | None,
    *,
    inputs: Sequence[str | Path | Adapter | None],
    overwrite: bool,
    each: Map,
    approve: Callable[[_Report], object] | None,
    files: Files | None = None,
    verified: Callable[[_Report, Path], _Report] = lambda report, path: report,
) -> Adapter[_Report] | _Report:
    """Write `adapter`, and return the report with what was written.

    With no output nothing is written, and the adapter is returned as it would be read from its
    files, with its report. `inputs` are what it was made of.

    `files` are its files in another dialect than its own. `verified` is given the path of the
    written files, and completes the report or raises. The report is then encoded as JSON and passed
    to `approve`, before the output has its name.

    Raises:
        NonFiniteError: a number in the report is not finite.
        LoratoolsError: see `write_adapter`.
    """
    if output is None:
        made = _read_back(adapter, files)
        approved(report, approve)
        made = replace(made, report=report, saver=adapter.saver, made_of=origins(*inputs))
        return cast("Adapter[_Report]", made)

    def ready(written: Written, path: Path) -> None:
        nonlocal report
        notes = tuple(dict.fromkeys((*report.notes, *written.idle)))
        report = replace(report, written=written, notes=notes)  # type: ignore[type-var]
        report = verified(report, path)
        approved(report, approve)

    write_adapter(
        adapter,
        Path(output),
        inputs=local_paths(*inputs),
        overwrite=overwrite,
        each=each,
        files=files,
        ready=ready,
    )
    return report


def _read_back(adapter: Adapter, files: Files | None) -> Adapter:
    """The adapter as it would be read from its files; the adapter itself if it has no such format.

    `files` are those in another dialect than its own.
    """
    with collector_paused():
        try:
            bundle = encode(adapter) if files is None else files.bundle
        except UnsupportedError:
            return adapter  # it can be merged and converted; whoever saves it is told the reason
        return as_read_back(bundle)


def approved(report: _Printable, approve: Callable[[_Printable], object] | None) -> None:
    """Check that a report can be printed, then pass it to `approve`, which may raise to refuse it.

    Raises:
        NonFiniteError: a number in the report is not finite.
    """
    json_text(report.to_json())
    if approve is not None:
        approve(report)


def write_adapter(
    adapter: Adapter,
    output: Path,
    *,
    inputs: Sequence[Path],
    overwrite: bool = False,
    each: Map = map,
    files: Files | None = None,
    ready: Callable[[Written, Path], object] = lambda written, path: None,
) -> Written:
    """Write `adapter`, or its `files` in another dialect: as a folder or as one file.

    Where a dialect has both, a name that ends with `.safetensors` is that of a file. Tensors are
    computed and written one at a time, or one at a time in each thread of `each`. `ready` is called
    with the path of what was written before the output has its name.

    Raises:
        NonFiniteError: a tensor is not finite in the dtype it is stored in.
        OutputError: the output exists or is an input; or its suffix is wrong: `.safetensors` is for
            an adapter that is a file, and only for that.
        StorageError: the output cannot be written.
    """
    with collector_paused():
        bundle, dialect = files or Files(encode(adapter), dialect_of(adapter))
        layout = layout_of(bundle)
    is_folder = _check_place(bundle, dialect, layout, output, inputs, overwrite=overwrite)
    with staged(output, is_folder=is_folder, overwrite=overwrite) as staging:
        written = put_files(bundle, dialect, layout, staging, each)
        ready(written, staging.made)
        staging.publish()
    return written


def check_writing(
    adapter: Adapter, output: Path | None, *, inputs: Sequence[Path], overwrite: bool
) -> None:
    """Refuse what `write_adapter` would refuse before it writes anything; None is any output.

    Raises:
        LoratoolsError: see `write_adapter`.
    """
    bundle = encode(adapter)
    dialect = dialect_of(adapter)
    layout = layout_of(bundle)
    if output is not None:
        _check_place(bundle, dialect, layout, output, inputs, overwrite=overwrite)


def _check_place(
    bundle: Bundle,
    dialect: Dialect,
    layout: Layout,
    output: Path,
    inputs: Sequence[Path],
    *,
    overwrite: bool,
) -> bool:
    """Refuse an output that these files cannot be written to; return whether it is a folder."""
    is_folder = says_folder(output) if dialect.is_folder is None else dialect.is_folder
    needed = layout.size + sum(c.nbytes for c in bundle.companions) + _SLACK_BYTES
    check_output(output, inputs, is_folder=is_folder, needed_bytes=needed, overwrite=overwrite)
    return is_folder


def put_files(
    bundle: Bundle, dialect: Dialect, layout: Layout, staging: Staging, each: Map = map
) -> Written:
    """Write the files of an adapter into a staging folder, under the names its dialect states."""
    name = dialect.weights if staging.is_folder else None
    path = staging.folder / (name or staging.output.name)
    has_zeros = write_tensors(bundle, path, layout, each)
    if dialect.config is not None and bundle.config is not None:
        staging.write_file(dialect.config, encode_json(bundle.config, sort_keys=True))
    for companion in bundle.companions if staging.is_folder else ():
        staging.copy_file(companion.name, companion.open())
    return Written(str(staging.output), layout.size, _idle(bundle, path) if has_zeros else ())


def _idle(bundle: Bundle, path: Path) -> tuple[str, ...]:
    """Lines on the updates in a written file that change nothing, whatever the base is."""
    # Read from the file, since rounding may have made zeros that the adapter does not have.
    file = InputFile(path)
    tensors = stored_tensors(file, file.read_header())
    adapter = decode(replace(bundle, tensors=tensors))
    idle = idle_updates(adapter, ())
    is_all = idle and not (adapter.replaced or adapter.rows) and len(idle) == len(adapter.updates)
    lines = by_reason(idle.items())
    return (NOTHING_LEFT, *lines) if is_all else lines


class _Made(Protocol):
    @property
    def adapter(self) -> Adapter: ...


_Found = TypeVar("_Found", bound=_Made)


def fitted(
    make: "Callable[[RankRule], _Found]", rule: "RankRule | None", adapter: Adapter, size: int
) -> _Found:
    """The result of `make` for the largest budget whose file has at most `size` bytes.

    The budget for factors is what is left of `size` beside the other tensors and the header of
    `adapter`. If the result is too large, as its dtypes are wider or its header is longer, `make`
    is called again with a smaller budget.

    Raises:
        LoratoolsError: nothing fits, or the rule has another goal.
    """
    rule = budget(rule, adapter, size)
    while True:
        found = make(rule)
        bundle = encode(found.adapter)
        excess = layout_of(bundle).size - size
        if excess <= 0:
            return found
        assert rule.parameters is not None
        fewer = -(-excess // _width(_factors(found.adapter)))
        if fewer >= rule.parameters:
            raise OutputError(
                f"{adapter.where}: {counted(size, 'byte is', 'bytes are')} too few, "
                f"by {excess} or more"
            )
        rule = replace(rule, parameters=rule.parameters - fewer)


def budget(rule: "RankRule | None", adapter: Adapter, size: int) -> "RankRule":
    """`rule` with as many elements for factors as fit beside the rest in a file of `size` bytes.

    Raises:
        LoratoolsError: the rest alone is as large, or the rule has another goal.
    """
    from loratools.lowrank.ranks import RankRule

    rule = rule or RankRule()
    rule.refuse_goal_beside("size")
    factors = _factors(adapter)
    bundle = encode(adapter)
    rest = layout_of(bundle).size - sum(nbytes(s.dtype, s.shape) for s in factors)
    if rest >= size:
        raise OutputError(
            f"{adapter.where}: {counted(rest, 'byte')} without any factors, more than {size}",
            hint="allow more, for the factors too",
        )
    return replace(rule, parameters=max(1, (size - rest) // _width(factors)))


def _factors(adapter: Adapter) -> list[Source]:
    """The stored factors of all updates that a rank rule applies to."""
    found: list[Source] = []
    for delta in (update.delta for update in adapter.updates.values()):
        lora = delta.factored()
        keys = {key for source in lora.sources for key in source.keys} if lora else set()
        found += [source for source in delta.sources if keys.issuperset(source.keys)]
    return found


def _width(factors: Sequence[Source]) -> int:
    """The size in bytes of one element of the widest dtype among the factors."""
    return max((nbytes(source.dtype, (1,)) for source in factors), default=1)
