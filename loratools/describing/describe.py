"""Describes an adapter: by its headers, its values, and beside a base."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import final

from loratools.adapter import Adapter
from loratools.describing.description import Inspection, find_nonfinite, inspect_adapter
from loratools.files.opening import AdapterLike, open_base, opened_adapter
from loratools.idle import idle_updates
from loratools.io.checkpoint import Checkpoint
from loratools.io.collector import collector_paused
from loratools.running.progress import Progress
from loratools.traps import warnings


@final
@dataclass(frozen=True)
class Inspecting:
    """How adapters are inspected: how their files are opened, and what is measured of them.

    Attributes are those of `inspect`.
    """

    base: str | Path | None = None
    variant: str | None = None
    spectrum: bool = False
    blocks: bool = False
    allow_pickle: bool = False
    dialect_options: Mapping[str, str] | None = None

    @property
    def reads_values(self) -> bool:
        """Whether more than headers is read."""
        return self.spectrum or self.blocks

    @cached_property
    def opened_base(self) -> Checkpoint | None:
        """The base, opened once for all adapters; errors as for `open_base`."""
        if not self.base:
            return None
        return open_base(self.base, headers=not self.reads_values, variant=self.variant)

    @collector_paused()
    def describe(
        self,
        adapter: AdapterLike,
        config: str | Path | None = None,
        *,
        progress: Progress = None,
    ) -> Inspection:
        """Describe an adapter, which is opened unless it is; errors as for `opened_adapter`.

        `progress` is told of what is measured: it is not called where headers are enough.
        """
        opened = opened_adapter(
            adapter,
            config=config,
            allow_pickle=self.allow_pickle,
            dialect_options=self.dialect_options,
            headers=not self.reads_values,
        )
        return self._measured(opened, progress)

    def _measured(self, adapter: Adapter, progress: Progress) -> Inspection:
        coverage = plan = None
        base = self.opened_base
        if base is not None:
            from loratools.describing.coverage import cover

            coverage, plan = cover(adapter, base)
        described = replace(
            inspect_adapter(adapter),
            warnings=tuple(warnings(adapter, base, reads_values=self.spectrum)),
            coverage=coverage,
        )
        if not self.reads_values:
            return described
        from loratools.describing.energy import block_energies
        from loratools.describing.spectrum import measure_spectra, weight_norms
        from loratools.running.parallel import threads

        with threads(None, progress, len(adapter.updates)) as each:
            # A base is much larger than an adapter.
            reading, adding, measuring = each.split(
                20 * (base is not None), self.blocks, self.spectrum
            )
            norms = weight_norms(plan, reading)
            if self.blocks:
                described = replace(described, blocks=block_energies(adapter, norms, adding))
            if not self.spectrum:
                return described
            spectra = tuple(measure_spectra(adapter, norms, measuring))
        return replace(
            described,
            spectra=spectra,
            nonfinite=find_nonfinite(adapter),
            idle=idle_updates(adapter, {row.target for row in spectra if row.is_zero}),
        )
