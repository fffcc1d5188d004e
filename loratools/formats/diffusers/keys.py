"""The keys of diffusers' files: a component of the pipeline, a module in it, and a part's name."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, final

from loratools.errors import FormatError, LoratoolsError, UnsupportedError, shorten
from loratools.formats._modules.alphas import ALPHA
from loratools.formats._modules.spelling import (
    OLD_DIFFUSERS,
    PEFT,
    PEFT_MAGNITUDE,
    Spelling,
    check_one_adapter,
    without_adapter,
)
from loratools.formats._part_names import lycoris_kind
from loratools.formats.diffusers import COMPONENTS
from loratools.io.bundle import Bundle
from loratools.io.source import Source

_COMPONENT = re.compile(rf"({'|'.join(COMPONENTS)})\.(.+)")
#: Modules of language models whose own name of the model is `transformer`, as GPT-2's is.
_LANGUAGE_MODEL = re.compile(r"transformer\.(h|layer|encoder|wte|wpe|word_embeddings)\.")

#: Beginnings of names that files of ComfyUI have, beside which they may have names of diffusers.
_OF_COMFYUI = ("diffusion_model.", "text_encoders.", "lora_", "lycoris_")

#: Kohya's names of parts, which diffusers' files do not have.
_KOHYAS = (".lora_down.weight", ".lora_up.weight", ".lora_mid.weight", ".dora_scale")

#: The parts as PEFT's codecs call them, by the names that spellings give them.
_ROLES = {
    "lora_down.weight": "lora_A",
    "lora_up.weight": "lora_B",
    PEFT_MAGNITUDE: "lora_magnitude_vector",
    "lora_B.bias": "lora_B.bias",
    ALPHA: ALPHA,
}
#: The end of a key in a file that is written, by the part.
ENDS = {
    "lora_A": "lora_A.weight",
    "lora_B": "lora_B.weight",
    "lora_B.bias": "lora_B.bias",
    "lora_magnitude_vector": "lora_magnitude_vector",
}
_SPELLING = PEFT | OLD_DIFFUSERS | Spelling({".lora_B.bias": "lora_B.bias", f".{ALPHA}": ALPHA})

#: PEFT's own prefix, which a component may have around it when its tensors are saved.
_WRAPPER = "base_model.model."
_PROCESSOR = ".processor."
#: The layers of attentions as attention processors name them, in U-Nets and in text encoders.
_IN_UNET = {"to_out": "to_out.0"}
_IN_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_OF_PROCESSORS = ("to_q", "to_k", "to_v", "to_out", "add_k_proj", "add_v_proj")
_UNET_BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.")


@final
class Place(NamedTuple):
    """The place of a tensor: a module of a component, and the part of that module's update.

    The component is empty in files of a single model, whose names begin with its own modules.
    """

    component: str
    module: str
    part: str

    @property
    def key(self) -> str:
        """The key under which the tensor is written."""
        return key_of(self.component, f"{self.module}.{ENDS.get(self.part, self.part)}")


@final
@dataclass
class Parts:
    """The tensors of a file.

    Attributes:
        modules: by component, by module and by part.
        alphas: the alphas that modules have as tensors, by component and by module.
        renamed: the keys that are written in another spelling, with the new ones.
        order: the keys under which the tensors are written, in file order.
    """

    modules: dict[str, dict[str, dict[str, Source]]] = field(default_factory=dict)
    alphas: dict[str, dict[str, Source]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)


def component_of(name: str) -> str | None:
    """The component that a name begins with; None for the name of a module of one model."""
    found = _COMPONENT.match(name)
    return None if found is None or _LANGUAGE_MODEL.match(name) else found[1]


def key_of(component: str, name: str) -> str:
    """A name in a component as a name in the file."""
    return f"{component}.{name}" if component else name


def has_components(keys: Collection[str]) -> bool:
    """Whether a key is that of a factor in a component of a pipeline, in any spelling."""
    if any(key.startswith(_OF_COMFYUI) or key.endswith(_KOHYAS) for key in keys):
        return False
    likely = (key for key in keys if component_of(key) or _PROCESSOR in key)
    return any(
        (place := place_of(key)) and place.component and place.part in ENDS for key in likely
    )


def has_factors(keys: Iterable[str]) -> bool:
    """Whether a key is that of a factor, also of a model that is no component of a pipeline."""
    ends = (".lora_A.weight", ".lora_B.weight")
    return any(without_adapter(key).endswith(ends) for key in keys)


def place_of(key: str) -> Place | None:
    """The place of a tensor; None for a key that is none of this format."""
    split = _SPELLING.split(key)
    if split is None:
        return None
    part = _ROLES[split.part]
    component = component_of(key) or ""
    module = split.module.removeprefix(f"{component}.") if component else split.module
    if component == module:  # nothing but the component is before the part
        component = ""
    while module.startswith(_WRAPPER):
        module = module.removeprefix(_WRAPPER)
    if key.startswith(f"{split.module}_lora.") or _PROCESSOR in module:
        return _in_processor(component, module, part)
    return Place(component, module, part)


def _in_processor(component: str, module: str, part: str) -> Place | None:
    """The place of a tensor of an attention processor, as diffusers' own conversion finds it."""
    module = module.replace(_PROCESSOR, ".")
    owner, _, layer = module.rpartition(".")
    if layer not in _OF_PROCESSORS:
        return None
    if not component and module.startswith(_UNET_BLOCKS):
        # Only U-Nets were saved in this way, and their files did not name the component.
        component = "unet"
    names = _IN_TEXT if component.startswith("text_encoder") else _IN_UNET
    return Place(component, f"{owner}.{names.get(layer, layer)}", part)


def sort_keys(bundle: Bundle) -> Parts:
    """Sort the tensors of a file by their places.

    Raises:
        FormatError: a key is not one of this format, two mean the same part, there are several
            adapters, an alpha has no factors, or only some of the keys begin with a component.
        UnsupportedError: a tensor belongs to a kind of update that is not read in this format.
    """
    check_one_adapter(bundle.tensors, bundle.where)
    parts = Parts()
    for key, source in bundle.tensors.items():
        place = place_of(key)
        if place is None:
            raise _unknown(bundle.where, key)
        _add(parts, place, key, source)
    _check(parts, bundle.where)
    return parts


def _unknown(where: str, key: str) -> LoratoolsError:
    if kind := lycoris_kind(key):
        return UnsupportedError(
            f"{where}: {shorten(key)}: {kind}, which is not read in diffusers' format", tensor=key
        )
    ends = ", ".join(f".{end}" for end in ENDS.values())
    return FormatError(
        f"{where}: {shorten(key)}: an unknown key: expected a module and a part of its update: "
        f"{ends}",
        tensor=key,
    )


def _add(parts: Parts, place: Place, key: str, source: Source) -> None:
    is_alpha = place.part == ALPHA
    if is_alpha:
        name, found = place.module, parts.alphas.setdefault(place.component, {})
    else:
        modules = parts.modules.setdefault(place.component, {})
        name, found = place.part, modules.setdefault(place.module, {})
    if name in found:
        raise FormatError(
            f"{shorten(key)}: says the same as {shorten(found[name].keys[0])}", tensor=key
        )
    found[name] = source
    if is_alpha:
        return
    parts.order.append(place.key)
    if place.key != key:
        parts.renamed[key] = place.key


def _check(parts: Parts, where: str) -> None:
    for component, alphas in parts.alphas.items():
        for module, alpha in alphas.items():
            if module not in parts.modules.get(component, {}):
                key = shorten(alpha.keys[0])
                raise FormatError(f"{where}: {key}: an alpha of a module without factors")
    bare = parts.modules.get("")
    if bare is not None and len(parts.modules) > 1:
        key = shorten(next(iter(next(iter(bare.values())).values())).keys[0])
        raise FormatError(
            f"{where}: {key}: does not say which component of the pipeline it belongs to, as the "
            f"other keys do, and diffusers leaves such a tensor out"
        )
