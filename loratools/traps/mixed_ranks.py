"""Modules of several ranks share one alpha, so that their scalings differ."""

from collections.abc import Iterator

from loratools.parts import Note
from loratools.traps._trap import Seen, Trap, scalings
from loratools.typed import folding


class _MixedRanks(Trap):
    what = "Modules of several ranks share one alpha of the config, the metadata or an option."
    readers = (
        "diffusers before 0.42 divides all of them by one rank, if no metadata says more; "
        "SGLang and mlx-lm load adapters of one rank only. A tool that changed ranks after the "
        "training, and not alpha, changed the strengths as well"
    )

    @property
    def cure(self) -> str:
        """What is done about it."""
        return f"{folding()} gives all modules a scaling of 1, which no reader gets wrong"

    def find(self, seen: Seen) -> Iterator[Note]:
        shared: dict[tuple[float, str], dict[int, float]] = {}
        for _, scaling in scalings(seen.adapter):
            if scaling.origin in ("config", "metadata", "option") and scaling.rule != "direct":
                values = shared.setdefault((scaling.alpha, scaling.origin), {})
                values[scaling.rank] = scaling.value
        for (alpha, origin), values in shared.items():
            if len(values) > 1 and alpha:
                ranks = ", ".join(map(str, values))
                found = ", ".join(f"{value:.4g}" for value in values.values())
                yield Note(
                    "problem" if origin == "option" else "info",
                    f"one alpha of {alpha:.10g} for modules of rank {ranks}, whose scalings are "
                    f"{found}; a program that takes one rank for all of them applies other "
                    f"strengths ({folding()} makes all scalings 1)",
                )


TRAP = _MixedRanks()
