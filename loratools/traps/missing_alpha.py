"""No alpha is stored: for some modules of a file, or for all of them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from loratools.adapter import Adapter
from loratools.deltas.lora import Scaling
from loratools.parts import Note
from loratools.traps._trap import Seen, Trap, listed, scalings


class _MissingAlpha(Trap):
    what = "Some modules have no alpha, and others of the same file have one."
    readers = (
        "ComfyUI, sd-scripts and A1111 take the rank, for a scaling of 1; LyCORIS stops with an "
        "error. Whether that is what was trained, nothing says: the alpha may have been lost"
    )
    cure = "writes down the alpha that readers assume, the rank; the update stays as it is"
    found_by = "every verb"
    is_doubt = True

    def find(self, seen: Seen) -> Iterator[Note]:
        missing = _missing(seen.adapter)
        if not missing:
            return
        others = _others(seen.adapter)
        if any(value != 1 for value in others):
            known = " or ".join(f"{value:.4g}" for value in others[:3])
            yield Note(
                "problem",
                f"no alpha, so the scaling is taken as 1, where other modules have {known}: "
                f"{listed(missing)}",
            )
        else:
            yield Note("info", f"no alpha, so the scaling is taken as 1: {listed(missing)}")

    def cured(self, adapter: Adapter) -> Mapping[str, Scaling]:
        if all(value == 1 for value in _others(adapter)):
            return {}
        return {t: replace(s, origin="tensor") for t, s in _missing(adapter).items()}


def _missing(adapter: Adapter) -> dict[str, Scaling]:
    return {t: scaling for t, scaling in scalings(adapter) if scaling.origin == "assumed"}


def _others(adapter: Adapter) -> tuple[float, ...]:
    """The different scalings of the modules that have an alpha, without those that are 0."""
    known = (scaling for _, scaling in scalings(adapter) if scaling.origin != "assumed")
    return tuple(dict.fromkeys(scaling.value for scaling in known if scaling.value))


TRAP = _MissingAlpha()
