"""Which of Stable Diffusion's U-Nets names belong to, of which most are the same in all of them."""

import re
from collections.abc import Iterable

#: The only family of known models that has U-Nets.
UNETS = "Stable Diffusion 1, 2 and XL"
#: Prefixes that the names of a U-Net's own modules may have.
UNET_ROOTS = ("model.diffusion_model.", "diffusion_model.", "unet.", "")
#: Modules that only one of the two kinds of U-Net has, by LDM's names and by diffusers'.
_ONLY_SD1 = re.compile(
    r"down_blocks[._](0[._]attentions|3)[._]|up_blocks[._](2[._]attentions|3)[._]"
    r"|input_blocks[._]([12][._]1|9|1\d)[._]|output_blocks[._]([678][._]1|9|1\d)[._]"
)
_ONLY_SDXL = re.compile(
    r"up_blocks[._]0[._]attentions|.*transformer_blocks[._][1-9]|add_embedding|label_emb"
)


def is_sd1(paths: Iterable[str]) -> bool | None:
    """Whether modules are those of SD 1 or 2, or else of SDXL; None if they may be either's.

    >>> is_sd1(["input_blocks_1_1_proj_in"]), is_sd1(["label_emb.0.0"]), is_sd1(["conv_in"])
    (True, False, None)
    """
    paths = tuple(paths)
    has_sd1, has_sdxl = (any(map(only.match, paths)) for only in (_ONLY_SD1, _ONLY_SDXL))
    return has_sd1 if has_sd1 != has_sdxl else None
