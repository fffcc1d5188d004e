"""An alpha is stored in 16 bits, which rounded it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from loratools.adapter import Adapter
from loratools.deltas.lora import Scaling
from loratools.formats._modules.metadata import stated_alphas
from loratools.io.dtypes import BITS, torch_name
from loratools.io.scalar import SCALARS, rounded
from loratools.parts import Note
from loratools.traps._trap import Seen, Trap, listed, scalings


class _RoundedAlpha(Trap):
    what = "An alpha is stored in float16 or bfloat16, and is the metadata's alpha rounded."
    readers = "all programs apply the rounded alpha, and the trainer applied the exact one"
    cure = "writes the metadata's alpha in float32"

    def find(self, seen: Seen) -> Iterator[Note]:
        groups: dict[tuple[float, float, str], list[str]] = {}
        for target, (scaling, exact) in _rounded(seen.adapter).items():
            assert scaling.source is not None, target
            groups.setdefault((exact, scaling.alpha, scaling.source.dtype), []).append(target)
        for (exact, alpha, dtype), targets in groups.items():
            yield Note(
                "info",
                f"an alpha of {exact:.10g} is rounded to {alpha:.10g} in {torch_name(dtype)}, "
                f"{abs(alpha / exact - 1):.2g} of it: {listed(targets)}",
            )

    def cured(self, adapter: Adapter) -> Mapping[str, Scaling]:
        return {
            target: replace(scaling, alpha=rounded(exact, "F32"), source=None)
            for target, (scaling, exact) in _rounded(adapter).items()
        }


def _rounded(adapter: Adapter) -> dict[str, tuple[Scaling, float]]:
    """The scalings whose alpha is the rounding of one that the metadata states, with that one."""
    exact = [] if adapter.filed is None else stated_alphas(adapter.filed.metadata)
    found: dict[str, tuple[Scaling, float]] = {}
    for target, scaling in scalings(adapter) if exact else ():
        dtype = scaling.source.dtype if scaling.source is not None else "F64"
        if BITS[dtype] > 16 or dtype not in SCALARS or scaling.alpha in exact:
            continue
        for alpha in exact:
            if rounded(alpha, dtype) == scaling.alpha and scaling.alpha:
                found[target] = scaling, alpha
    return found


TRAP = _RoundedAlpha()
