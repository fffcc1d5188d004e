"""What an adapter is, and how it fits a base, as fields: a label and a text each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from loratools.adapter import Adapter
from loratools.describing.groups import TargetGroup
from loratools.errors import counted, either, listing, shorten
from loratools.names.grouping import pattern_of
from loratools.names.meant_for import meant_for
from loratools.parts import Filed, Replacement
from loratools.showing.parts import Fields, human_size

if TYPE_CHECKING:
    from loratools.describing.coverage import Coverage

#: The most entries of the file's metadata that are shown.
_METADATA_SHOWN = 12
#: More image models than these say nothing about which it is.
_MOST_MODELS = 4


def adapter_fields(
    adapter: Adapter, groups: Sequence[TargetGroup], dtypes: Sequence[str], replaced: int
) -> Fields:
    """What an adapter is; `replaced` is the number of elements that replace the base's."""
    origin, filed = adapter.provenance, adapter.filed
    kinds = ", ".join(adapter.kinds) or "whole tensors only"
    made_by = f", written by {origin.trainer}" if origin.trainer else ""
    form = f", {filed.dialect} format" if filed else ""
    named = (origin.base or origin.family, origin.revision)
    stated = " @ ".join(part for part in named if part)
    own = f"{sum(group.parameters for group in groups):,}"
    rows = adapter.rows.items()
    return Fields(
        [
            ("kind", f"{kinds}{form}{made_by}"),
            ("task", origin.task or ""),
            ("base", with_models(stated, meant_for(adapter.updates))),
            ("scaling", _scaling(groups)),
            ("parameters", f"{own} in updates, {replaced:,} replaced" if replaced else own),
            ("stored", f"{human_size(adapter.nbytes)}, {', '.join(dtypes)}"),
            ("replaced", ", ".join(_replaced(adapter.replaced))),
            ("token rows", ", ".join(f"{target} {list(each.indices)}" for target, each in rows)),
            ("no effect", "; ".join(_inert(adapter.inert))),
            ("tokenizer", ", ".join(path.name for path in adapter.companions)),
            ("metadata", "" if filed is None else _metadata(filed)),
        ]
    )


def with_models(stated: str, models: Sequence[str]) -> str:
    """The base that an adapter names, and the image models that have all its modules, if few do."""
    found = either(models) if 0 < len(models) <= _MOST_MODELS else ""
    return f"{stated} ({found})" if stated and found else stated or found


def coverage_fields(coverage: "Coverage") -> Fields:
    """Which part of a base the adapter changes."""
    applied, total = (coverage.accounting[name] for name in ("applied", "adapter_tensors"))
    left = (f"{name.removesuffix('.weight')} ({n})" for name, n in coverage.untouched.items())
    return Fields(
        [
            ("on base", coverage.base),
            ("which is", coverage.recognised or ""),
            ("merges", f"yes: {applied} of {counted(total, 'tensor')}"),
            (
                "touches",
                f"{coverage.touched} of {counted(coverage.matrices, 'matrix', 'matrices')}",
            ),
            ("leaves", ", ".join(left)),
            ("packed", ", ".join(f"{format_} ({n})" for format_, n in coverage.packed.items())),
        ]
    )


def _scaling(groups: Sequence[TargetGroup]) -> str:
    """The scaling rules in use, and where alphas were found, each named once."""
    rules = {"rank": "alpha / rank", "sqrt_rank": "alpha / √rank", "direct": "alpha", None: ""}
    used = dict.fromkeys(rules[group.rule] for group in groups if group.rule)
    origins = dict.fromkeys(group.alpha_from for group in groups if group.alpha_from)
    stored = ", ".join(origin for origin in origins if origin != "assumed")
    found = [f"alpha from {stored}"] if stored else []
    found += ["alpha assumed"] if "assumed" in origins else []
    return "; ".join([", ".join(used), *found]) if used else ""


def _replaced(replaced: Mapping[str, Replacement]) -> Iterator[str]:
    """The tensors stored whole with their shapes; names that differ only in numbers together."""
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


def _metadata(filed: Filed) -> str:
    """The first entries of the file's metadata, settings first: a trainer's can fill pages."""
    names = sorted(filed.metadata, key=lambda name: name not in filed.settings)
    entries = (f"{name}={shorten(filed.metadata[name], 60)}" for name in names)
    return listing(entries, _METADATA_SHOWN)
