"""`convert` as a function: reads an adapter, and writes it in another format."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack, final, overload

from loratools.adapter import Adapter
from loratools.arguments import checked
from loratools.checks import check_choice
from loratools.errors import UnsupportedError, counted, listing
from loratools.files.opening import (
    AdapterLike,
    Reading,
    open_adapter,
    open_base,
    opened_adapter,
)
from loratools.files.writing import Files, Written, write_reported
from loratools.formats import Dialect, decode, written
from loratools.io.checkpoint import Checkpoint
from loratools.io.collector import collector_paused
from loratools.io.dtypes import FLOATS, from_torch_name, torch_name
from loratools.names.packed import packed_in
from loratools.reshaping.compared import Comparison, compare
from loratools.reshaping.converted import Converted, converted, encoded
from loratools.reshaping.written import written_parts
from loratools.running.parallel import threads
from loratools.running.progress import Progress, shows_progress
from loratools.running.share import Map
from loratools.showing.parts import Part
from loratools.showing.shown import Shown
from loratools.typed import valued

#: The dtypes that an adapter can be converted to, by their names in torch.
DTYPES = tuple(map(torch_name, FLOATS))


@final
@dataclass(frozen=True, repr=False)
class ConvertReport(Shown):
    """The report of a conversion; `written` is None after a dry run.

    Attributes:
        adapter: the adapter that was read.
        source: the name of its format.
        target: the name of the format that was written.
        names: the new names of each target: several of one that is fused of what they name.
        dropped: the targets and tensors that `drop` left out.
        comparison: how what was written compares with what was read, by new names.
        notes: remarks for the user.
        written: what was written.
    """

    adapter: str
    source: str
    target: str
    names: Mapping[str, tuple[str, ...]]
    dropped: tuple[str, ...]
    comparison: Comparison
    notes: tuple[str, ...]
    written: Written | None

    def shown(self, *, verbose: bool = False) -> Iterator[Part]:
        """How many targets were converted, how exactly, and what was written."""
        new = len({name for names in self.names.values() for name in names})
        others = "" if new == len(self.names) else f", {new} in the other layout"
        yield f"{self.source} → {self.target}: {counted(len(self.names), 'target')}{others}"
        if self.dropped:
            yield f"left out by {valued('drop')}: {listing(self.dropped)}"
        yield from self.comparison.lines
        yield from written_parts(self.written, self.notes)

    def to_json(self) -> dict[str, Any]:
        """The report as the documented object that `convert --json` prints."""
        worst = self.comparison.worst
        return {
            "adapter": self.adapter,
            "from": self.source,
            "to": self.target,
            "output": self.written.path if self.written else None,
            "bytes": self.written.nbytes if self.written else None,
            "names": {old: new[0] if len(new) == 1 else [*new] for old, new in self.names.items()},
            "dropped": list(self.dropped),
            "error": worst[1] if worst else 0.0,
            "worst": worst[0] if worst else None,
            "errors": dict(self.comparison.errors),
            "folded": list(self.comparison.folded),
            "padded": list(self.comparison.padded),
            "notes": list(self.notes),
        }


class _Arguments(Reading, total=False):
    base: str | Path | None
    variant: str | None
    dtype: str | None
    drop: Sequence[str]
    overwrite: bool
    progress: Progress
    approve: Callable[[ConvertReport], object] | None


@overload
def convert(
    adapter: AdapterLike, *, to: str, output: None = None, **arguments: Unpack[_Arguments]
) -> Adapter[ConvertReport]: ...
@overload
def convert(
    adapter: AdapterLike, *, to: str, output: str | Path, **arguments: Unpack[_Arguments]
) -> ConvertReport: ...
@overload
def convert(
    adapter: AdapterLike, *, to: str, output: str | Path | None, **arguments: Unpack[_Arguments]
) -> Adapter[ConvertReport] | ConvertReport: ...
@shows_progress("targets")
@collector_paused()
@checked
def convert(
    adapter: AdapterLike,
    *,
    to: str,
    output: str | Path | None = None,
    base: str | Path | None = None,
    variant: str | None = None,
    dtype: str | None = None,
    drop: Sequence[str] = (),
    overwrite: bool = False,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    progress: Progress = None,
    approve: Callable[[ConvertReport], object] | None = None,
) -> Adapter[ConvertReport] | ConvertReport:
    """Store the adapter in another format.

    What is written is read back before the output gets its name, and every update is compared with
    the one that was read.

    Args:
        adapter: a path, a name on the Hub (`hf://owner/name`), or an opened adapter.
        to: the format to write: `"comfyui"`, `"diffusers"`, `"kohya"`, `"mlx"` or `"peft"`; the web
            UIs of A1111 and Forge read kohya.
        output: where the adapter is written; None returns it instead, and writes nothing.
        base: the base model, if its tensors are needed to understand the names in the adapter.
        variant: read the weights of a model from its files `model.NAME.safetensors`, such as
            `"fp16"`; `"none"`: from those without a name.
        dtype: the dtype of the new tensors, by its name in torch: `bfloat16`; by default as they
            are.
        drop: leave targets that match one of these globs out.
        overwrite: replace an output that exists.
        config: the `adapter_config.json` of an adapter that has none beside it.
        allow_pickle: read PyTorch's `.bin`, `.pt` and `.pth` files too, without running code that
            is in them.
        dialect_options: options of the format that is read, by name: `{"out_proj": "once"}`.
        progress: called with the work that is done, in targets, and the number of all targets; True
            shows a bar on stderr. What it raises stops the verb.
        approve: called with the report before the output gets its name, or at the end where nothing
            is written; if it raises, no output is left.

    Example:
        >>> import loratools
        >>> converted = loratools.convert("fixtures/adapters/plain", to="mlx")  # output= writes it
        >>> len(converted)
        35

    Raises:
        LoratoolsError: see `loratools.errors`; no output is left then, and no input was changed.
    """
    dialect, stored = _dialect(to), _dtype(dtype)
    opened = opened_adapter(
        adapter, config=config, allow_pickle=allow_pickle, dialect_options=dialect_options
    )
    read = None if base is None else open_base(base, headers=True, variant=variant)
    found = converted(opened, dialect, None if read is None else _shapes(read), drop)
    source = opened.filed.dialect if opened.filed is not None else dialect.name
    files = encoded(found, dialect, source, stored)
    with threads(None, progress, len(found.adapter.updates)) as each:
        writing, comparing = each.split(0 if output is None else 1, 3)
        if output is None:
            comparison = _compared(found.adapter, dialect, _in_memory(files), comparing)
        else:
            comparison = Comparison({}, (), ())
        return write_reported(
            ConvertReport(
                adapter=opened.where,
                source=source,
                target=dialect.name,
                names=found.names,
                dropped=found.dropped,
                comparison=comparison,
                notes=_notes(opened, found, files),
                written=None,
            ),
            found.adapter,
            output,
            inputs=(adapter, config, base),
            overwrite=overwrite,
            each=writing,
            approve=approve,
            files=files,
            verified=lambda report, path: replace(
                report, comparison=_compared(found.adapter, dialect, open_adapter(path), comparing)
            ),
        )


def _dialect(name: str) -> Dialect:
    known = {dialect.name: dialect for dialect in written()}
    check_choice("to", name, known)
    return known[name]


def _shapes(base: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The shapes of a base's tensors, and of weights that it stores packed under other names.

    That of a packed weight is empty if headers do not tell it.
    """
    packed = packed_in(base)
    plain = {name: stored.shape for name, stored in base.tensors.items()}
    return plain | {name: packed.shapes.get(name, ()) for name in packed.weights}


def _dtype(name: str | None) -> str | None:
    check_choice("dtype", name, DTYPES)
    return None if name is None else from_torch_name(name)


def _in_memory(files: Files) -> Adapter:
    """The adapter in files that are not written, whose tensors are computed when they are read."""
    return decode(files.bundle)


def _compared(adapter: Adapter, dialect: Dialect, read: Adapter, each: Map) -> Comparison:
    """Compare an adapter with what was read of its new files.

    Raises:
        UnsupportedError: they are read in another format, or differ by more than rounding explains.
    """
    found = read.filed.dialect if read.filed is not None else None
    if found != dialect.name:
        raise UnsupportedError(
            f"{adapter.where}: would be read in the {found} format, and not in {dialect.name}"
        )
    return compare(adapter, read, each)


def _notes(opened: Adapter, found: Converted, files: Files) -> tuple[str, ...]:
    kept = {companion.name for companion in files.bundle.companions}
    left = [companion.name for companion in opened.companions if companion.name not in kept]
    notes = [*(note.message for note in opened.remarks), *found.notes]
    if left:
        notes.append(f"not copied, as the format has no place for it: {listing(left)}")
    return tuple(notes)
