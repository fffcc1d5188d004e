"""Modules of a U-Net or a text encoder have alphas of their own, which diffusers does not keep."""

import re
from collections import Counter
from collections.abc import Iterator

from loratools.parts import Note
from loratools.traps._trap import Seen, Trap, listed, scalings
from loratools.typed import worded

#: The names of the files that diffusers converts for Stable Diffusion 1, 2 and XL. What it converts
#: for other models keeps the alphas.
_COMPONENT = re.compile(
    r"lora_(?:unet(?=_(?:down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks)_)"
    r"|te[12]?(?=_text_model_))"
)


class _SeveralAlphas(Trap):
    what = "Modules of one component (`lora_unet_`, `lora_te_` …) have different alphas."
    readers = (
        "diffusers 0.42, where it converts a kohya file of Stable Diffusion 1, 2 or XL, gives all "
        "modules of a component the alpha that most of them have"
    )

    @property
    def cure(self) -> str:
        """What is done about it."""
        converting = worded("`convert --to diffusers`", "`convert(to='diffusers')`")
        return f"{converting} writes each alpha into the metadata, where diffusers reads it"

    def find(self, seen: Seen) -> Iterator[Note]:
        alphas: dict[str, dict[str, float]] = {}
        for target, scaling in scalings(seen.adapter):
            if scaling.origin == "tensor" and (component := _COMPONENT.match(target)):
                alphas.setdefault(component[0], {})[target] = scaling.alpha
        others: list[str] = []
        for known in alphas.values():
            ((common, _),) = Counter(known.values()).most_common(1)
            others += (target for target, alpha in known.items() if alpha != common)
        if others:
            yield Note(
                "info",
                f"alphas differ between modules, and diffusers, where it converts the file, gives "
                f"the most common one of its component also to {listed(others)}",
            )


TRAP = _SeveralAlphas()
