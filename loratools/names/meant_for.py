"""For which models an adapter is, by the names of its modules: for messages, as names may not tell.

Only what makes the image is looked at: text encoders are the same in many models.
"""

from collections.abc import Iterable
from functools import lru_cache

from loratools.names.components import labelled
from loratools.names.layouts import readings
from loratools.names.unets import UNETS, is_sd1


def meant_for(targets: Iterable[str]) -> tuple[str, ...]:
    """The models that have all modules of an adapter, as far as names tell; none if it has others.

    >>> meant_for(["lora_unet_joint_blocks_0_x_block_attn_qkv.weight"])
    ('Stable Diffusion 3',)
    """
    return _meant_for(tuple(targets))


# Many adapters in a folder have the same targets.
@lru_cache(maxsize=8)
def _meant_for(targets: tuple[str, ...]) -> tuple[str, ...]:
    found = [paths for target in targets if (paths := _paths(target)) is not None]
    families = [family for family in (found or [{}])[0] if all(family in paths for paths in found)]
    names = (_name(family, [paths[family] for paths in found]) for family in families)
    return tuple(filter(None, names))


def _paths(target: str) -> dict[str, str] | None:
    """The families of models that have a module, each with its path; None of a text encoder."""
    _, label, rest = labelled(target)
    if label not in (None, "denoiser"):
        return None
    found = readings(rest.rpartition(".")[0])
    return {r.family: r.path for r in found if r.component in ("unet", "transformer")}


def _name(family: str, paths: Iterable[str]) -> str | None:
    """The name of a family; of U-Nets that of the one that has all modules, if only one has."""
    if family != UNETS:
        return family
    found = is_sd1(paths)
    return None if found is None else "Stable Diffusion 1 or 2" if found else "SDXL"
