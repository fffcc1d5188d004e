"""`combine` as a function: reads adapters, combines them into one, and writes it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, final, overload

from loratools.adapter import Adapter
from loratools.arguments import checked
from loratools.errors import OptionError, counted
from loratools.files.companions import note_left_behind
from loratools.files.opening import Reading, opened_adapter
from loratools.files.writing import Written, fitted, write_reported
from loratools.io.sizes import size_in_bytes
from loratools.keywords import with_keywords
from loratools.lowrank.goals import Ranks, rule_of
from loratools.merging.weights import Adapters, weighted
from loratools.reshaping.alignment import aligned
from loratools.reshaping.based import additive_all
from loratools.reshaping.certificates import Certificates
from loratools.reshaping.combined import Combination, Combined, combined, effort_of
from loratools.reshaping.rounding_error import has_rounded, rounding_error, rounding_note
from loratools.reshaping.similarity import Similarity
from loratools.reshaping.written import written_parts
from loratools.running.parallel import import_torch, threads
from loratools.running.progress import Progress, shows_progress
from loratools.showing.parts import Part
from loratools.showing.shown import Shown

if TYPE_CHECKING:
    from loratools.lowrank.ranks import RankRule


@final
@dataclass(frozen=True, repr=False)
class CombineReport(Shown):
    """The report of a combination.

    Attributes:
        adapters: the paths or names of the adapters.
        weights: the weight of each, in order.
        method: how the updates were combined.
        certificates: how much each truncation lost; empty if nothing was truncated.
        similarity: the angles between the adapters, and between each and the result.
        notes: remarks for the user.
        rounding: the relative error that storing factors in 16 bits adds to the updates; None if
            they are stored in more bits, or unchanged.
        written: what was written; None if nothing was.
    """

    adapters: tuple[str, ...]
    weights: tuple[float, ...]
    method: str
    certificates: Certificates
    similarity: Similarity
    notes: tuple[str, ...]
    rounding: float | None
    written: Written | None

    def shown(self, *, verbose: bool = False) -> Iterator[Part]:
        """What was combined and how, how similar it is, what of it was kept, what was written."""
        yield f"{self.method} of {counted(len(self.adapters), 'adapter')}"
        pairs = zip(self.adapters, self.weights, strict=True)
        for number, (adapter, weight) in enumerate(pairs, 1):
            yield f"{number}  {adapter}" + ("" if weight == 1 else f" × {weight:g}")
        if self.similarity.groups:
            yield self.similarity.table(len(self.adapters))
        yield from self.certificates.shown(verbose=verbose)
        yield from written_parts(self.written, self.notes)

    def to_json(self) -> dict[str, Any]:
        """The report as the documented object that `combine --json` prints."""
        return {
            "adapters": list(self.adapters),
            "weights": list(self.weights),
            "method": self.method,
            "output": self.written.path if self.written else None,
            "bytes": self.written.nbytes if self.written else None,
            **self.certificates.to_json(),
            "similarity": self.similarity.to_json(),
            "rounding": self.rounding,
            "notes": list(self.notes),
        }


class _Arguments(Ranks, Reading, total=False):
    weights: Sequence[float] | None
    method: str | None
    density: float | None
    where: Sequence[tuple[str, float]] | None
    seed: int | None
    combination: Combination | None
    base: str | Path | None
    variant: str | None
    overwrite: bool
    jobs: int | None
    progress: Progress
    approve: Callable[[CombineReport], object] | None


@overload
def combine(
    adapters: Adapters, *, output: None = None, **arguments: Unpack[_Arguments]
) -> Adapter[CombineReport]: ...
@overload
def combine(
    adapters: Adapters, *, output: str | Path, **arguments: Unpack[_Arguments]
) -> CombineReport: ...
@overload
def combine(
    adapters: Adapters, *, output: str | Path | None, **arguments: Unpack[_Arguments]
) -> Adapter[CombineReport] | CombineReport: ...
@shows_progress("targets")
@checked
def combine(
    adapters: Adapters,
    *,
    output: str | Path | None = None,
    weights: Sequence[float] | None = None,
    method: str | None = None,
    density: float | None = None,
    where: Sequence[tuple[str, float]] | None = None,
    seed: int | None = None,
    combination: Combination | None = None,
    rank: int | None = None,
    energy: float | None = None,
    error: float | None = None,
    size: int | str | None = None,
    rule: "RankRule | None" = None,
    base: str | Path | None = None,
    variant: str | None = None,
    overwrite: bool = False,
    jobs: int | None = None,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    progress: Progress = None,
    approve: Callable[[CombineReport], object] | None = None,
) -> Adapter[CombineReport] | CombineReport:
    """Make one adapter that has the effect of all adapters together.

    Without a goal for the ranks nothing is truncated.

    Args:
        adapters: paths, names on the Hub (`hf://owner/name`) or opened adapters; each alone, or
            with its weight: `("style", 0.7)`.
        output: where the adapter is written; None returns it instead, and writes nothing.
        weights: the weight of each adapter, in order; 1 by default. 1 is the strength as trained,
            0.5 half of it, and -1 its opposite.
        method: how the updates are combined: `linear` (the default), `ties`, `dare_ties`, `knots`
            or others.
        density: keep this share of the entries of each update, above 0 and at most 1; for methods
            such as `ties`.
        where: multiply the strength of targets that match by F, for each pair of a glob and F:
            `[("*.attn.*", 0.5)]`; of several that match, the last counts.
        seed: the seed of random choices; 0 by default.
        combination: the choices above and more, as one object.
        rank: this rank for every target.
        energy: the least ranks that keep this share of the energy of each update (the sum of its
            squared singular values), above 0 and at most 1: 0.95 keeps 95%.
        error: the least ranks that lose at most this share of the norm of each update, from 0 to
            below 1.
        size: the best ranks for a file of at most this size: a number of bytes, or a text such as
            `"64MB"`.
        rule: a rule with more choices, instead of `rank`, `energy` and `error`.
        base: the base model. With it, DoRA and other updates that depend on the weights of the base
            become LoRA for this base, at the ranks that you choose.
        variant: read the weights of a model from its files `model.NAME.safetensors`, such as
            `"fp16"`; `"none"`: from those without a name.
        overwrite: replace an output that exists.
        jobs: the number of threads; None is one for each core.
        config: the `adapter_config.json` of an adapter that has none beside it.
        allow_pickle: read PyTorch's `.bin`, `.pt` and `.pth` files too, without running code that
            is in them.
        dialect_options: options of the adapter's format, by name: `{"out_proj": "once"}`.
        progress: called with the work that is done, in targets, and the number of all targets; True
            shows a bar on stderr. What it raises stops the verb.
        approve: called with the report before the output gets its name, or at the end where nothing
            is written; if it raises, no output is left.

    Example:
        >>> import loratools
        >>> one, other = "fixtures/adapters/plain", "fixtures/adapters/combine-r8"
        >>> both = loratools.combine([(one, 0.7), other])
        >>> both["layers.0.self_attn.q_proj"].rank  # 8 + 8; rank= truncates
        16

    Raises:
        LoratoolsError: see `loratools.errors`; no output is left then, and no input was changed.
    """
    limit = size_in_bytes(size)
    named, weights = weighted(adapters, weights)
    if not named:
        raise OptionError("no adapter to combine")
    combination = with_keywords(combination or Combination(), method=method, where=where, seed=seed)
    options = with_keywords(combination.options, density=density)
    combination = replace(combination, options=options)
    rule = rule_of(rule, rank=rank, energy=energy, error=error)
    read = [
        opened_adapter(
            one, config=config, allow_pickle=allow_pickle, dialect_options=dialect_options
        )
        for one in named
    ]
    opened, renamed = aligned(read)
    import_torch()
    targets = {target for adapter in opened for target in adapter.updates}
    with threads(jobs, progress, len(targets)) as each:
        # With a base, matrices as large as its weights are decomposed.
        effort = 5 + 5 * effort_of(combination.method, is_exact=rule is None and limit is None)
        basing, combining, rest = each.split(100 if base else 0, effort, 5)

        def make(rule: "RankRule | None") -> Combined:
            additive, lost = additive_all(opened, base, rule, basing, variant)
            found = combined(additive, weights, rule, combination, combining)
            return replace(found, notes=(*lost, *found.notes))

        found = make(rule) if limit is None else fitted(make, rule, _together(opened), limit)
        rounding, writing = rest.split(4 * has_rounded(found.adapter), 1)
        error = rounding_error(found.adapter, rounding)
        report = CombineReport(
            adapters=tuple(adapter.where for adapter in opened),
            weights=weights,
            method=combination.method,
            certificates=Certificates(found.ranks, found.truncations, found.gap),
            similarity=found.similarity,
            notes=(
                *(f"{one.where}: {note.message}" for one in opened for note in one.remarks),
                *renamed,
                *found.notes,
                *note_left_behind(opened),
                *rounding_note(found.adapter, error),
            ),
            rounding=error,
            written=None,
        )
        return write_reported(
            report,
            found.adapter,
            output,
            inputs=(*named, config, base),
            overwrite=overwrite,
            each=writing,
            approve=approve,
        )


def _together(adapters: Sequence[Adapter]) -> Adapter:
    """One adapter with the targets and whole tensors of all, each as the first owner stores it.

    It only serves to estimate the size of the result.
    """
    found = adapters[-1]
    for adapter in reversed(adapters[:-1]):
        found = replace(
            adapter,
            updates={**found.updates, **adapter.updates},
            replaced={**found.replaced, **adapter.replaced},
            rows={**found.rows, **adapter.rows},
        )
    return found
