"""The keys of ComfyUI's files: a part of the checkpoint, a module's path in it, and a part's name.

A module is called as in the checkpoint, so its name begins with `diffusion_model.`, or with
`text_encoders.` and the name of the encoder. Its parts may have the name that any program gives
them: ComfyUI tries one after the other, module by module.
"""

from collections.abc import Iterable, Mapping

from loratools.formats._modules.codecs import Codecs
from loratools.formats._modules.spelling import OLD_DIFFUSERS, PEFT, Spelling, Split, spelled_alike

_BEGINNINGS = ("diffusion_model.", "text_encoders.")
#: ai-toolkit's name of a magnitude, which has one number for each output.
_AI_TOOLKIT = Spelling({".magnitude": "dora_scale"})
#: A description of the names of modules, for errors.
NAMES = f"the name of a module, which begins with {' or '.join(_BEGINNINGS)}"


def spelling(codecs: Codecs) -> Spelling:
    """The names of parts in ComfyUI's files."""
    return spelled_alike(codecs.parts) | PEFT | OLD_DIFFUSERS | _AI_TOOLKIT


def is_name(module: str) -> bool:
    """Whether a module's name is one in a checkpoint of ComfyUI, and no attention's processor."""
    return module.startswith(_BEGINNINGS) and ".processor." not in module


def own_keys(keys: Iterable[str]) -> list[str]:
    """The keys that begin with a part of the checkpoint."""
    return list(filter(is_name, keys))


def spelled(keys: Iterable[str], codecs: Codecs) -> Mapping[Split, str]:
    """The keys of a file, by the modules and parts that they mean."""
    own = spelling(codecs)
    return {split: key for key in keys if (split := own.split(key)) is not None}
