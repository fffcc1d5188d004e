"""Steps that made a checkpoint, for its card: inputs and figures from verbs' JSON reports."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from statistics import median
from typing import Any, TypeVar, final

from loratools.errors import FormatError, HubError, listing
from loratools.files.place import layers_of
from loratools.hub.names import HubName, is_hub_name
from loratools.io.failures import path_errors
from loratools.io.file import InputFile
from loratools.io.folder import read_json
from loratools.names.grouping import pattern_of

_T = TypeVar("_T")
#: For each verb, fields that together only its report has.
_SHAPES: Mapping[str, frozenset[str]] = {
    "svd-extract": frozenset({"tuned", "base", "total", "check"}),
    "merge": frozenset({"base", "adapters", "accounting", "tensors", "fidelity"}),
    "combine": frozenset({"adapters", "weights", "method", "total"}),
    "rescale": frozenset({"adapter", "strengths"}),
    "resize": frozenset({"adapter", "total", "targets"}),
}


@final
@dataclass(frozen=True)
class CardSource:
    """An input of a step: a name on the Hub, or the last part of a path."""

    verb: str
    role: str
    name: str
    weight: float | None = None
    method: str | None = None


@final
@dataclass(frozen=True)
class CardFigure:
    """A measured figure; `target` is the weight, or the pattern of names, that it is about."""

    verb: str
    label: str
    value: str
    target: str | None = None


@final
@dataclass(frozen=True)
class Step:
    """One report, as a card shows it; `base` is the name of the base model in the report."""

    sources: tuple[CardSource, ...]
    figures: tuple[CardFigure, ...]
    base: str | None = None


def read_steps(reports: Iterable[Mapping[str, Any] | str | Path]) -> tuple[Step, ...]:
    """Read the steps that reports describe: objects, or the paths of files with one.

    Raises:
        FormatError: as for `read_report`; the message names the file, or the report by its number.
        StorageError: a file cannot be read.
    """
    return tuple(_read_step(report, number) for number, report in enumerate(reports, 1))


def _read_step(report: Mapping[str, Any] | str | Path, number: int) -> Step:
    if not isinstance(report, str | Path):
        return read_report(report, f"report {number}")
    file = str(report)
    with path_errors(file, FormatError):
        fields = read_json(InputFile(Path(file)), file)
    try:
        return read_report(fields, file)
    except FormatError as error:
        error.file = file  # the message begins with it, and with what was made of its fields
        raise


def read_report(report: object, where: str) -> Step:
    """Read the step that a verb's JSON report describes; `where` names the report in messages.

    Raises:
        FormatError: it is not the report of a verb that makes something, or a field is not as
            documented.
    """
    if not isinstance(report, Mapping):
        raise FormatError(f"{where}: is not an object")
    for verb, names in _SHAPES.items():
        if names <= report.keys():
            return _READERS[verb](_Fields(f"{where} ({verb})", report))
    raise FormatError(
        f"{where}: has {listing(map(str, report))}, which is not the JSON of "
        f"{', '.join(sorted(_SHAPES))}"
    )


def shown(name: str) -> str:
    r"""The last part of a path, without the folders of a machine; a name on the Hub is kept.

    >>> shown("/models/private/adapter/"), shown("C:\\me\\a.safetensors"), shown("hf://me/a")
    ('adapter', 'a.safetensors', 'hf://me/a')
    """
    if is_hub_name(name):
        try:
            return str(HubName.parse(name))
        except HubError:
            pass  # a path in a folder called `hf:`
    last = PureWindowsPath(name).name  # splits at slashes of both kinds
    return last if last.strip(".") else "a local folder"


def _shown_base(name: str) -> str:
    """As `shown`, for a base that may have overlays."""
    return "+".join(shown(str(layer)) for layer in layers_of(name))


@final
@dataclass(frozen=True)
class _Fields:
    """A JSON object in a report; its fields are checked to have the documented types."""

    where: str
    values: Mapping[str, Any]

    def get(self, name: str, kind: type[_T]) -> _T | None:
        """The value of a field that must be there and may be null."""
        if name not in self.values:
            raise FormatError(f"{self.where}: has no {name!r}")
        value = self.values[name]
        if value is not None and not isinstance(value, kind):
            raise FormatError(f"{self.where}: {name!r} is not a {kind.__name__}")
        return value

    def need(self, name: str, kind: type[_T]) -> _T:
        """The value of a field that must be there and may not be null."""
        value = self.get(name, kind)
        if value is None:
            raise FormatError(f"{self.where}: {name!r} is null")
        return value

    def number(self, name: str) -> float | None:
        """The number in a field; None where it is null or missing."""
        value = self.values.get(name)
        return None if value is None else _number(value, f"{self.where}: {name!r}")

    def inner(self, name: str) -> "_Fields | None":
        """The object in a field that must be there and may be null."""
        value = self.get(name, dict)
        return None if value is None else _Fields(f"{self.where}: {name}", value)

    def items(self, name: str) -> "Iterator[_Fields]":
        """The objects of the list in a field."""
        for number, value in enumerate(self.need(name, list)):
            where = f"{self.where}: {name}[{number}]"
            if not isinstance(value, dict):
                raise FormatError(f"{where} is not an object")
            yield _Fields(where, value)


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormatError(f"{where} is not a number")
    return float(value)


def _merge(report: _Fields) -> Step:
    base = report.need("base", str)
    sources = [CardSource("merge", "base", _shown_base(base))]
    sources += [
        CardSource("merge", "adapter", shown(adapter.need("path", str)), adapter.number("weight"))
        for adapter in report.items("adapters")
    ]
    return Step(tuple(sources), tuple(_fidelity(report)), base)


def _fidelity(report: _Fields) -> Iterator[CardFigure]:
    total = report.inner("fidelity")
    if total is None:
        return
    yield from _errors("merge", "update lost to rounding", total.number("relative_error"))
    found = [(t.need("name", str), t.inner("fidelity")) for t in report.items("tensors")]
    errors = {name: part.number("relative_error") for name, part in found if part is not None}
    known = {name: error for name, error in errors.items() if error is not None}
    if known:
        worst = max(known, key=lambda name: known[name])
        yield CardFigure("merge", "the same, median weight", _percent(median(known.values())))
        yield CardFigure("merge", "the same, worst weight", _percent(known[worst]), worst)
    if (cosine := total.number("cosine")) is not None:
        yield CardFigure("merge", "cosine of the update wanted and made", f"{cosine:.6f}")


def _combine(report: _Fields) -> Step:
    names, weights = report.need("adapters", list), report.need("weights", list)
    if len(names) != len(weights) or not all(isinstance(name, str) for name in names):
        raise FormatError(f"{report.where}: 'adapters' and 'weights' do not go together")
    method = report.need("method", str)
    sources = [
        CardSource("combine", "adapter", shown(n), _number(w, f"{report.where}: weight"), method)
        for n, w in zip(names, weights, strict=True)
    ]
    return Step(tuple(sources), tuple(_truncation("combine", report)))


def _resize(report: _Fields) -> Step:
    source = CardSource("resize", "adapter", shown(report.need("adapter", str)))
    return Step((source,), tuple(_truncation("resize", report)))


def _truncation(verb: str, report: _Fields) -> Iterator[CardFigure]:
    total = report.inner("total")
    if total is not None:
        if (energy := total.number("energy")) is not None:
            yield CardFigure(verb, "energy kept", f"{100 * energy:.6g} %")
        yield from _errors(verb, "relative error", total.number("relative_error"))
    yield from _errors(verb, "relative error by rounding factors", report.number("rounding"))


def _rescale(report: _Fields) -> Step:
    source = CardSource("rescale", "adapter", shown(report.need("adapter", str)))
    strengths = report.need("strengths", dict)
    groups: dict[str, list[float | None]] = {}
    for target, value in strengths.items():
        strength = None if value is None else _number(value, f"{report.where}: {target!r}")
        groups.setdefault(pattern_of(target), []).append(strength)
    if len(set(strengths.values())) == 1:
        groups = {"*": next(iter(groups.values()))}
    figures = [CardFigure("rescale", "strength", _range(v), t) for t, v in groups.items()]
    figures += _errors("rescale", "relative error by rounding factors", report.number("rounding"))
    repairs = report.items("repairs") if "repairs" in report.values else ()
    if traps := dict.fromkeys(repair.need("trap", str) for repair in repairs):
        figures.append(CardFigure("rescale", "repaired", ", ".join(traps)))
    return Step((source,), tuple(figures))


def _range(strengths: Iterable[float | None]) -> str:
    strengths = list(strengths)
    # rescale's report has null where an alpha of 0 became another one: no factor leads there.
    known = [strength for strength in strengths if strength is not None]
    if len(known) < len(strengths):
        return "no longer 0"
    low, high = min(known), max(known)
    return f"× {low:.6g}" if low == high else f"× {low:.6g} to {high:.6g}"


def _svd_extract(report: _Fields) -> Step:
    tuned, base = report.need("tuned", str), report.need("base", str)
    figures = list(_truncation("svd-extract", report))
    if (check := report.inner("check")) is not None:
        distance = check.number("relative")
        figures += _errors("svd-extract", "distance of the files merged back", distance)
    sources = (
        CardSource("svd-extract", "tuned model", _shown_base(tuned)),
        CardSource("svd-extract", "base", _shown_base(base)),
    )
    return Step(sources, tuple(figures), base)


def _errors(verb: str, label: str, value: float | None) -> Iterator[CardFigure]:
    if value is not None:
        yield CardFigure(verb, label, _percent(value))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if math.isfinite(share) else "not finite"


_READERS = {
    "combine": _combine,
    "merge": _merge,
    "rescale": _rescale,
    "resize": _resize,
    "svd-extract": _svd_extract,
}
