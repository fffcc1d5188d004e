"""The lists of block weights that programs publish: the order of their blocks, and presets.

A list of numbers has no names, so its length and the blocks of an adapter tell what it means. The
orders for U-Nets are those of sd-webui-lora-block-weight, and of sd-scripts' `svd_merge_lora.py`;
that of 25 values is the one with which sd-scripts trains. Those for transformers are the blocks in
the order in which a model runs through them, as in lora-block-weight-neo, or after `BASE`, as in
ComfyUI's Inspire pack.
"""

from collections.abc import Iterator
from typing import NamedTuple, final


@final
class BlockList(NamedTuple):
    """The order of a list of block weights, and the models that it is for."""

    models: str
    order: str

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks in their order."""
        return tuple(block for part in self.order.split() for block in _run(part))


def _run(part: str) -> Iterator[str]:
    """The blocks from the first to the last of one stack: `IN01-IN02`."""
    first, _, last = part.partition("-")
    stack = first.rstrip("0123456789")
    if not last:
        yield first
        return
    for number in range(int(first[len(stack) :]), int(last[len(stack) :]) + 1):
        yield f"{stack}{number:02}"


LISTS = (
    BlockList("SDXL", "BASE IN04-IN05 IN07-IN08 M00 OUT00-OUT05"),
    BlockList("SD 1 and 2", "BASE IN01-IN02 IN04-IN05 IN07-IN08 M00 OUT03-OUT11"),
    BlockList("SDXL with convolutions", "BASE IN00-IN08 M00 OUT00-OUT08"),
    BlockList("any U-Net without text encoders", "IN00-IN11 M00 OUT00-OUT11"),
    BlockList("any U-Net", "BASE IN00-IN11 M00 OUT00-OUT11"),
    BlockList("SD3 and SD3.5 medium", "B00-B23"),
    BlockList("SD3 and SD3.5 medium", "BASE B00-B23"),
    BlockList("SD3.5 large", "B00-B37"),
    BlockList("SD3.5 large", "BASE B00-B37"),
    BlockList("Flux.1, Chroma", "B00-B18 S00-S37"),
    BlockList("Flux.1, Chroma", "BASE B00-B18 S00-S37"),
    BlockList("Flux.2 klein 4B", "B00-B04 S00-S19"),
    BlockList("Flux.2 klein 9B", "B00-B07 S00-S23"),
    BlockList("Wan 1.3B", "B00-B29"),
    BlockList("Wan 1.3B", "BASE B00-B29"),
    BlockList("Wan 14B", "B00-B39"),
    BlockList("Wan 14B", "BASE B00-B39"),
    BlockList("Anima 2B", "B00-B27"),
    BlockList("Qwen-Image", "B00-B59"),
)

#: Presets for the list of 17 values, which sd-webui-lora-block-weight and the Inspire pack have.
_SD = {
    "INS": "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0",
    "IND": "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "MIDD": "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0",
    "MIDD0.2": "1,0,0,0,0,0,0.2,0.4,0.4,0.2,0,0,0,0,0,0,0",
    "MIDD0.8": "1,0,0,0,0,0.5,0.8,0.8,0.4,0,0,0,0,0,0,0,0",
    "MOUT": "1,0,0,0,0,0,1,1,1,1,1,1,1,1,0.5,0,0",
    "OUTD": "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",
    "OUTS": "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1",
}
#: The same for the list of 12 values: INS and OUTD as published, the others by the same division
#: into shallow and deep blocks.
_SDXL = {
    "INS": "1,1,1,0,0,0,0,0,0,0,0,0",
    "IND": "1,0,0,1,1,0,0,0,0,0,0,0",
    "MIDD": "1,0,0,1,1,1,1,1,1,0,0,0",
    "OUTD": "1,0,0,0,0,0,1,1,1,0,0,0",
    "OUTS": "1,0,0,0,0,0,0,0,0,1,1,1",
}
_ANY = {"ALL": "rest=1", "NONE": "rest=0", "ALL0.5": "rest=0.5"}
_UNET = {
    "INALL": "BASE=1,IN00-IN11=1,rest=0",
    "MIDALL": "BASE=1,M00=1,rest=0",
    "OUTALL": "BASE=1,OUT00-OUT11=1,rest=0",
}
#: As in the Inspire pack, which counts single blocks from 1 in these names, up to the 38th.
_FLUX = {
    "FLUX-DBL-ALL": "BASE=1,D00-D18=1,rest=0",
    "FLUX-DBL-FRONT7": "BASE=1,D00-D06=1,rest=0",
    "FLUX-DBL-MID6": "BASE=1,D07-D12=1,rest=0",
    "FLUX-DBL-TAIL6": "BASE=1,D13-D18=1,rest=0",
    "FLUX-SINGLE-ALL": "BASE=1,S00-S37=1,rest=0",
    "FLUX-SINGLE-1TO10": "BASE=1,S00-S09=1,rest=0",
    "FLUX-SINGLE-11TO20": "BASE=1,S10-S19=1,rest=0",
    "FLUX-SINGLE-21TO30": "BASE=1,S20-S29=1,rest=0",
    "FLUX-SINGLE-31TO37": "BASE=1,S30-S37=1,rest=0",
}

#: Presets with one or several meanings, of which the one for the blocks of an adapter holds.
PRESETS: dict[str, tuple[str, ...]] = {
    **{name: (text,) for name, text in (_ANY | _UNET).items()},
    **{name: (text, *(_SDXL[n] for n in [name] if n in _SDXL)) for name, text in _SD.items()},
    **{name: (text,) for name, text in _FLUX.items()},
    **{f"SD-{name}": (text,) for name, text in (_SD | _ANY | _UNET).items()},
    **{f"SDXL-{name}": (text,) for name, text in (_SDXL | _ANY | _UNET).items()},
}
