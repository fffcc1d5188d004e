"""Translates LDM's names in U-Nets of Stable Diffusion (SGM's in SDXL) into diffusers' names.

The rules of the architecture say how (`aliases/stable_diffusion.txt`). They are of single modules,
and the blocks of SD 1, SD 2 and SDXL are numbered alike, so that diffusers' name follows from LDM's
alone, also where it is flattened.
"""

import re
from functools import cache

from loratools.names.architectures import architectures
from loratools.names.flattened import flattened_prefix
from loratools.names.patterns import Patterns, filled
from loratools.names.unets import UNET_ROOTS

_BLOCK = re.compile(r"((input|output)_blocks[._]\d+|middle_block)[._][012][._].")


def is_ldm_name(name: str) -> bool:
    """Whether a dotted or flattened name is LDM's name of a block.

    >>> is_ldm_name("lora_unet_input_blocks_4_1_proj_in.weight")
    True
    """
    return _BLOCK.match(_without_root(name)[1]) is not None


def diffusers_name(name: str) -> str | None:
    """Translate LDM's name in a U-Net into diffusers' name; None if LDM has no such name.

    >>> diffusers_name("lora_unet_output_blocks_5_2_conv.weight")
    'lora_unet_up_blocks_1_upsamplers_0_conv.weight'
    """
    root, path = _without_root(name)
    module, dot, parameter = path.rpartition(".")
    between = "_" if flattened_prefix(name) else "."
    found = _modules(between).find(module.replace(between, "."), {})
    if found is None:
        return None
    theirs = filled(found.values[0], found.numbers, found.rest)
    return root + theirs.replace(".", between) + dot + parameter


@cache
def _modules(between: str) -> Patterns[tuple[str, ...]]:
    """Diffusers' names of modules, by LDM's names of them with this between words."""
    found: Patterns[tuple[str, ...]] = Patterns()
    (unet,) = (known for known in architectures() if known.component == "unet")
    for rule in unet.rules.rules:
        if rule.diffusers is not None:
            words = ".".join(rule.original).replace(between, ".").split(".")
            found.add(words, rule.diffusers)
    return found


def _without_root(name: str) -> tuple[str, str]:
    """Split a name into the prefix before the U-Net's own modules, and the rest."""
    root = flattened_prefix(name) or next(filter(name.startswith, UNET_ROOTS))
    return root, name.removeprefix(root)
