"""Reads LoRAs for FLUX.1 whose keys are the names of its original checkpoint, without a prefix.

The control LoRAs of Black Forest Labs (Canny and Depth) also change biases, replace the scales of
norms, and read more channels than the model does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from loratools.adapter import Adapter
from loratools.deltas.diff import Diff
from loratools.errors import FormatError, ShapeMismatchError, counted, shorten
from loratools.formats import Sureness
from loratools.formats._modules.alphas import ALPHA
from loratools.formats._modules.codecs import all_codecs
from loratools.formats._modules.reading import adapter_of, other_kind, stored_modules
from loratools.formats._modules.spelling import PEFT, Spelling, without_adapter
from loratools.io.bundle import Bundle
from loratools.io.source import Source
from loratools.parts import Note, Replacement, Update

#: The modules at the root of FLUX.1.
_ROOTS = (
    "double_blocks.", "single_blocks.", "img_in.", "txt_in.", "time_in.", "vector_in.",
    "guidance_in.", "final_layer.",
)  # fmt: skip
_NAMES = "the name of a module of FLUX.1, such as double_blocks.0.img_attn.qkv"
_SPELLING = PEFT | Spelling({f".{ALPHA}": ALPHA})
_BIAS = ".lora_B.bias"
_NORMS = (".query_norm.scale", ".key_norm.scale")
#: The layer that reads the image, whose channels a control LoRA doubles, and their number.
_IMAGE, _CHANNELS = "img_in.weight", 64


def claim(bundle: Bundle) -> Sureness:
    """How sure this dialect is: its modules are those of FLUX.1, under no prefix.

    Files with parts of kinds that have no codec alone are only `POSSIBLE`.
    """
    own = [key for key in bundle.tensors if key.startswith(_ROOTS)]
    if not own:
        return Sureness.NO
    if any(key.endswith(all_codecs().marks) for key in own):
        return Sureness.NO  # a file in kohya's format, which may have such names too
    found = [split for key in bundle.tensors if (split := _SPELLING.split(key))]
    is_control = any(without_adapter(key).endswith((_BIAS, *_NORMS)) for key in own)
    if not is_control and not all(_is_name(split.module) for split in found):
        return Sureness.NO  # many models have a final_layer, for example, and other modules besides
    if any(split.part != ALPHA for split in found):
        return Sureness.KEYS
    has_others = any(other_kind(key, _SPELLING) for key in own)
    return Sureness.POSSIBLE if has_others else Sureness.NO


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The adapter in a file; a target is the name of a parameter in FLUX.1's original checkpoint.

    Raises:
        FormatError: a factor is missing, a key is unknown, or a tensor cannot be a factor.
        ShapeMismatchError: the tensors of a module do not fit each other.
        UnsupportedError: there are updates of another kind, or factors that are not floats.
    """
    tensors = {without_adapter(key): source for key, source in bundle.tensors.items()}
    biases = {key: s for key, s in tensors.items() if key.endswith(_BIAS)}
    scales = {key: s for key, s in tensors.items() if key.endswith(_NORMS)}
    ends = (_BIAS, *_NORMS)
    rest = {k: s for k, s in bundle.tensors.items() if not without_adapter(k).endswith(ends)}
    modules = stored_modules(replace(bundle, tensors=rest), _SPELLING, _is_name, _NAMES)
    adapter = adapter_of(bundle, "bfl", modules)
    updates = dict(adapter.updates)
    for key, source in biases.items():
        updates[f"{key.removesuffix(_BIAS)}.bias"] = _bias(bundle.where, key, source, updates)
    return replace(
        adapter,
        updates=updates,
        replaced={key: Replacement(source, is_trained=True) for key, source in scales.items()},
        notes=(*adapter.notes, *_notes(updates, scales)),
    )


def _is_name(module: str) -> bool:
    return f"{module}.".startswith(_ROOTS)


def _bias(where: str, key: str, source: Source, updates: Mapping[str, Update]) -> Update:
    """The change of a bias, which is added with the scaling of the factors beside it."""
    weight = updates.get(f"{key.removesuffix(_BIAS)}.weight")
    if weight is None or weight.delta.scaling is None:
        raise FormatError(
            f"{where}: {shorten(key)}: a bias of factors that are not in the file", tensor=key
        )
    if source.shape != weight.delta.shape[:1]:
        raise ShapeMismatchError(
            f"{where}: {shorten(key)}: has the shape {list(source.shape)}, where "
            f"{counted(weight.delta.shape[0], 'number is', 'numbers are')} expected",
            tensor=key,
        )
    scaling = replace(weight.delta.scaling, source=None)
    return Update(Diff(source, scaling))


def _notes(updates: Mapping[str, Update], scales: Mapping[str, Source]) -> Iterator[Note]:
    """A note on the channels that a control LoRA adds to the model's."""
    image = updates.get(_IMAGE)
    if scales and image is not None and image.delta.shape[1] > _CHANNELS:
        channels = image.delta.shape[1]
        yield Note(
            "info",
            f"{_IMAGE} has {channels} inputs, where FLUX.1 has {_CHANNELS}: it reads an image that "
            f"controls the result as well; it can be merged into a base whose {_IMAGE} has "
            f"{counted(channels - _CHANNELS, 'column')} of zeros after its own",
        )
