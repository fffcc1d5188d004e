"""`inspect` as a function: opens an adapter's files, and a base's, and describes the adapter."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from loratools.describing.description import Inspection, find_nonfinite, inspect_adapter
from loratools.files.opening import open_adapter, open_base
from loratools.idle import idle_updates
from loratools.io.collector import collector_paused
from loratools.traps import warnings


@collector_paused()
def inspect(
    adapter: str | Path,
    *,
    base: str | Path | None = None,
    spectrum: bool = False,
    blocks: bool = False,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    variant: str | None = None,
) -> Inspection:
    """Describe an adapter by its headers; with `spectrum` or `blocks`, by its values too.

    `spectrum` measures every update, and `blocks` how much of them is in each block of the model.
    With a `base`, the description says which of its weights the adapter changes, and whether the
    two can be merged. With both, it has the size of each update, or of each block's, relative to
    its weights, which are read for that. `variant` is that of the base's weights, where its folder
    has several.

    Raises:
        LoratoolsError: a file is malformed, or of a kind that is not supported.
    """
    opened = open_adapter(
        adapter,
        config=config,
        allow_pickle=allow_pickle,
        dialect_options=dialect_options,
        headers=not (spectrum or blocks),
    )
    coverage = plan = opened_base = None
    if base:
        from loratools.describing.coverage import cover

        opened_base = open_base(base, headers=not (spectrum or blocks), variant=variant)
        coverage, plan = cover(opened, opened_base)
    described = replace(
        inspect_adapter(opened),
        warnings=tuple(warnings(opened, opened_base, reads_values=spectrum)),
    )
    described = replace(described, coverage=coverage)
    if not (spectrum or blocks):
        return described
    from loratools.describing.energy import block_energies
    from loratools.describing.spectrum import measure_spectra, weight_norms
    from loratools.running.parallel import threads

    norms = weight_norms(plan)
    with threads(None) as each:
        if blocks:
            described = replace(described, blocks=block_energies(opened, norms, each))
        if not spectrum:
            return described
        spectra = tuple(measure_spectra(opened, norms, each))
    return replace(
        described,
        spectra=spectra,
        nonfinite=find_nonfinite(opened),
        idle=idle_updates(opened, {row.target for row in spectra if row.is_zero}),
    )
