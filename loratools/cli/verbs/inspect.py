"""Describe an adapter."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from loratools.cli.command import ADAPTER, Verb, section
from loratools.cli.failures import CHECK_FAILED, printable
from loratools.cli.options import (
    json_option,
    modules_option,
    offline_option,
    print_json,
    reading_options,
    variant_option,
)
from loratools.cli.several import inspect_several
from loratools.cli.tables import Column, field_lines, human_size, table_lines
from loratools.cli.text import print_lines
from loratools.errors import counted, listing, shorten

if TYPE_CHECKING:
    from loratools.adapter import Filed, Replacement
    from loratools.describing.description import Inspection
    from loratools.describing.energy import BlockEnergy
    from loratools.describing.spectrum import TargetSpectrum

#: The most entries of the file's metadata that are shown.
_METADATA_SHOWN = 12
#: A shorter name for where an alpha was found, so that rows fit into a line.
_FROM = {"alpha_pattern": "regex"}


@click.command(
    "inspect",
    short_help=__doc__,
    cls=Verb,
    arguments={"ADAPTER": f"{ADAPTER} Or a folder of adapters."},
    examples=(
        ("See what is in an adapter:", "loratools inspect style.safetensors"),
        (
            "See several, or a folder of them, in one table:",
            "loratools inspect adapter other-adapter style.safetensors",
        ),
        (
            "Check in a script that one is sound and fits a model (exit code 3 if not):",
            "loratools inspect adapter --base model --check -q",
        ),
    ),
)
@click.argument("adapters", metavar="ADAPTER...", nargs=-1, required=True, type=click.Path())
@section(
    "What is shown of one adapter",
    click.option(
        "--spectrum",
        is_flag=True,
        help="Measure every update: its norm, its largest singular value, and its effective rank.",
    ),
    click.option(
        "--blocks",
        is_flag=True,
        help="Measure how much of the update is in each block of the model.",
    ),
    modules_option,
)
@section(
    "Several adapters",
    click.option(
        "--list", "as_list", is_flag=True, help="Show a table, or an array of JSON, even of one."
    ),
    click.option("--recursive", is_flag=True, help="Look into folders at any depth."),
)
@section(
    "Checking",
    click.option(
        "--check",
        is_flag=True,
        help="Read the values too, and exit with code 3 if something is wrong.",
    ),
    click.option(
        "--base",
        type=click.Path(),
        metavar="BASE",
        help="See whether the adapter fits this model, and what it changes there.",
    ),
    variant_option,
)
@reading_options
@offline_option
@json_option
def command(
    adapters: tuple[str, ...],
    config: str | None,
    modules: bool,
    check: bool,
    as_json: bool,
    as_list: bool,
    recursive: bool,
    **settings: Any,
) -> int:
    """Describe ADAPTER from its headers and its config, without reading its values.

    Of several, and of a folder of adapters, it prints a table with a row for each.

    With --check it reads the values too: a NaN, or an adapter that was never trained, is wrong.
    """
    from loratools.describing.describe import Inspecting
    from loratools.describing.several import are_several, find_each

    show_spectrum = settings["spectrum"]
    inspecting = Inspecting(**{**settings, "spectrum": show_spectrum or check})
    if as_list or recursive or len(adapters) > 1 or are_several(adapters[0]):
        if config is not None:
            raise click.UsageError("--config is the config of one adapter: name that one alone.")
        alone = {"--spectrum": show_spectrum, "--blocks": settings["blocks"], "--modules": modules}
        if not as_json and (given := " and ".join(name for name in alone if alone[name])):
            raise click.UsageError(f"{given}: shown of one adapter; name one alone, or add --json.")
        found_each = find_each(adapters, recursive=recursive, allow_pickle=settings["allow_pickle"])
        return inspect_several(found_each, inspecting, check=check, as_json=as_json)
    found = inspecting.describe(adapters[0], config)
    if as_json:
        print_json(found)
    else:
        print_lines(_text(found, show_spectrum=show_spectrum, show_modules=modules))
    return CHECK_FAILED if check and not found.is_sound else 0


def _text(found: "Inspection", *, show_spectrum: bool, show_modules: bool) -> Iterator[str]:
    yield printable(found.adapter.where)
    yield from field_lines(_fields(found))
    if found.groups:
        yield from table_lines(_target_columns(found))
    spectra = found.spectra or ()
    if show_spectrum and spectra:
        yield from table_lines(_spectrum_columns(spectra if show_modules else (), spectra))
    elif show_modules:
        for target in found.adapter.updates:
            yield f"  {printable(target)}"
    if found.blocks:
        yield from table_lines(_block_columns(found.blocks))
    if found.coverage is not None:
        yield from field_lines(_coverage_fields(found))
    for note in found.notes:
        label = {"info": "Note", "problem": "Problem", "refusal": "Refused"}[note.severity]
        trap = f" [{note.trap}]" if note.trap else ""
        yield f"{label}: {printable(note.message)}{trap}"


def _fields(found: "Inspection") -> Iterator[tuple[str, str]]:
    adapter = found.adapter
    origin = adapter.provenance
    kinds = ", ".join(adapter.kinds) or "whole tensors only"
    made_by = f", written by {origin.trainer}" if origin.trainer else ""
    form = f", {adapter.filed.dialect} format" if adapter.filed else ""
    yield "kind", f"{kinds}{form}{made_by}"
    yield "task", origin.task or ""
    yield (
        "base",
        " @ ".join(part for part in (origin.base or origin.family, origin.revision) if part),
    )
    yield "scaling", _scaling(found)
    yield "parameters", _parameters(found)
    yield "stored", f"{human_size(adapter.nbytes)}, {', '.join(found.dtypes)}"
    yield "replaced", ", ".join(_replaced(adapter.replaced))
    yield (
        "token rows",
        ", ".join(f"{target} {list(rows.indices)}" for target, rows in adapter.rows.items()),
    )
    yield "no effect", "; ".join(_inert(adapter.inert))
    yield "tokenizer", ", ".join(path.name for path in adapter.companions)
    if adapter.filed is not None:
        yield "metadata", _metadata(adapter.filed)


def _replaced(replaced: "Mapping[str, Replacement]") -> Iterator[str]:
    """The tensors stored whole with their shapes; names that differ only in numbers together."""
    from loratools.names.grouping import pattern_of

    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for target, replacement in replaced.items():
        groups.setdefault((pattern_of(target), replacement.source.shape), []).append(target)
    for (pattern, shape), targets in groups.items():
        name = targets[0] if len(targets) == 1 else f"{len(targets)} {pattern}"
        yield f"{name} {list(shape)}"


def _inert(reasons: Mapping[str, str]) -> Iterator[str]:
    """The tensors without effect, those with the same reason together."""
    for reason in dict.fromkeys(reasons.values()):
        yield f"{', '.join(key for key in reasons if reasons[key] == reason)} ({reason})"


def _metadata(filed: "Filed") -> str:
    """The first entries of the file's metadata, settings first: a trainer's can fill pages."""
    names = sorted(filed.metadata, key=lambda name: name not in filed.settings)
    entries = (f"{name}={shorten(filed.metadata[name], 60)}" for name in names)
    return listing(entries, _METADATA_SHOWN)


def _scaling(found: "Inspection") -> str:
    """The scaling rules in use, and where alphas were found, each named once."""
    rules = {"rank": "alpha / rank", "sqrt_rank": "alpha / √rank", "direct": "alpha", None: ""}
    used = dict.fromkeys(rules[group.rule] for group in found.groups if group.rule)
    origins = dict.fromkeys(group.alpha_from for group in found.groups if group.alpha_from)
    return f"{', '.join(used)}; alpha from {', '.join(origins)}" if used else ""


def _parameters(found: "Inspection") -> str:
    own = f"{found.parameters:,}"
    replaced = found.replaced_parameters
    return f"{own} in updates, {replaced:,} replaced" if replaced else own


def _target_columns(found: "Inspection") -> Sequence[Column]:
    groups = found.groups
    origins = [group.alpha_from or "" for group in groups]
    differ = len({origin for origin in origins if origin}) > 1
    return (
        Column("targets", [_short(group.pattern) for group in groups]),
        Column("n", [str(group.count) for group in groups], is_number=True),
        Column("shape", ["×".join(map(str, group.shape)) for group in groups], is_number=True),
        Column("rank", [_maybe(group.rank) for group in groups], is_number=True),
        Column("alpha", [_maybe(group.alpha) for group in groups], is_number=True),
        *([Column("from", [_FROM.get(origin, origin) for origin in origins])] if differ else []),
        Column("scaling", [_maybe(group.scaling) for group in groups], is_number=True),
        Column("kind", [group.kind for group in groups]),
    )


def _spectrum_columns(
    modules: "Sequence[TargetSpectrum]", spectra: "Sequence[TargetSpectrum]"
) -> Sequence[Column]:
    """A row for each of `modules`; if that is empty, the means over groups of targets."""
    from loratools.describing.spectrum import mean_spectra

    rows = modules or mean_spectra(spectra)
    return (
        Column("updates" if modules else "means", [_short(row.target) for row in rows]),
        Column("‖ΔW‖", [_value(row, "frobenius") for row in rows], is_number=True),
        Column("σ₁", [_value(row, "spectral") for row in rows], is_number=True),
        Column("stable", [_value(row, "stable_rank") for row in rows], is_number=True),
        Column("eff.", [_value(row, "effective_rank") for row in rows], is_number=True),
        Column("half", [_value(row, "half_energy") for row in rows], is_number=True),
        *(
            [Column("‖ΔW‖/‖W‖", [_maybe(row.relative) for row in rows], is_number=True)]
            if any(row.relative is not None for row in rows)
            else []
        ),
    )


def _block_columns(blocks: "Sequence[BlockEnergy]") -> Sequence[Column]:
    """A row for each block; a number that is not finite is said to be so."""
    relative = [_maybe(block.relative) for block in blocks]
    return (
        Column("block", [block.block for block in blocks]),
        Column("targets", [str(block.targets) for block in blocks], is_number=True),
        Column("‖ΔW‖", [_norm(block) for block in blocks], is_number=True),
        Column("share", [_percent(block.share) for block in blocks], is_number=True),
        *([Column("‖ΔW‖/‖W‖", relative, is_number=True)] if any(relative) else []),
        Column("", ["▪" * round(30 * (block.share or 0)) for block in blocks]),
    )


def _norm(block: "BlockEnergy") -> str:
    return "not finite" if block.norm is None else f"{block.norm:.3g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}%"


def _coverage_fields(found: "Inspection") -> Iterator[tuple[str, str]]:
    coverage = found.coverage
    if coverage is None or coverage.refusal is not None:
        return
    yield "on base", coverage.base
    if coverage.recognised is not None:
        yield "which is", coverage.recognised
    applied, total = (coverage.accounting[name] for name in ("applied", "adapter_tensors"))
    yield "merges", f"yes: {applied} of {counted(total, 'tensor')}"
    yield "touches", f"{coverage.touched} of {counted(coverage.matrices, 'matrix', 'matrices')}"
    yield "leaves", ", ".join(f"{_short(p)} ({n})" for p, n in coverage.untouched.items())
    yield "packed", ", ".join(f"{format_} ({n})" for format_, n in coverage.packed.items())


def _short(target: str) -> str:
    return target.removesuffix(".weight")


def _maybe(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _value(row: "TargetSpectrum", name: str) -> str:
    if row.spectrum is None:
        return "not finite"
    return f"{getattr(row.spectrum, name):.3g}"
