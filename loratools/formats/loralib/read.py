"""Reads state dicts of microsoft/LoRA: `lora_A` and `lora_B`, and whole tensors beside them."""

from collections.abc import Iterator, Mapping

from loratools.adapter import Adapter
from loratools.errors import FormatError, UnsupportedError, about, shorten
from loratools.formats import Sureness
from loratools.formats._modules.alphas import ALPHA
from loratools.formats._modules.spelling import Spelling
from loratools.formats._part_names import named_part
from loratools.formats.loralib.modules import decoded
from loratools.io.bundle import Bundle
from loratools.io.source import Source
from loratools.parts import Filed, Note, Provenance, Replacement
from loratools.typed import of_format

_FACTORS = Spelling({f".{part}": part for part in ("lora_A", "lora_B")})
_ENDS = tuple(_FACTORS.parts)
#: Beginnings of names in other formats, whose files may have keys that end alike.
_OTHERS = (
    "base_model.", "diffusion_model.", "text_encoder.", "text_encoder_2.", "text_encoders.",
    "unet.", "transformer.transformer_blocks.", "transformer.single_transformer_blocks.",
    "transformer.blocks.", "double_blocks.", "single_blocks.", "lora_", "lycoris_",
)  # fmt: skip


def claim(bundle: Bundle) -> Sureness:
    """How sure this dialect is: factors are parameters of their layer, without `.weight`.

    No layer has an alpha, which is never stored.
    """
    keys = [key for key in bundle.tensors if "lora_" in key]
    if not keys or not all(key.endswith(_ENDS) for key in keys):
        return Sureness.NO
    has_alpha = any(
        f"{split.module}.{ALPHA}" in bundle.tensors for split in map(_FACTORS.split, keys) if split
    )
    is_other = any(key.startswith(_OTHERS) for key in keys)
    return Sureness.NO if is_other or has_alpha else Sureness.KEYS


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The adapter in a state dict; weights of updated layers beside it are the model's own.

    Raises:
        FormatError: a factor is missing.
        ShapeMismatchError: the factors of a layer do not fit each other, or its weight.
        UnsupportedError: there is a part of another kind of update, or nothing says which parts of
            a fused weight are updated.
    """
    modules, whole = _sorted(bundle)
    alpha = None if options["alpha"] == "auto" else float(options["alpha"])
    updates = {}
    for name, parts in modules.items():
        where = f"{bundle.where}: {shorten(name)}"
        if len(parts) < 2:
            there, missing = ("lora_A", "lora_B") if "lora_A" in parts else ("lora_B", "lora_A")
            raise FormatError(f"{where} has {there} and no {missing}: half an update", tensor=name)
        target = f"{name}.weight"
        with about(name):
            updates[target] = decoded(
                where,
                parts["lora_A"],
                parts["lora_B"],
                whole.get(target),
                alpha=alpha,
                enabled=options["enable_lora"],
            )
    holds_model = any(target in whole for target in updates)
    return Adapter(
        where=bundle.where,
        updates=updates,
        replaced={key: Replacement(s, is_trained=not holds_model) for key, s in whole.items()},
        rows={},
        copies=(),
        inert={},
        provenance=Provenance(),
        notes=tuple(_notes(bundle, options["alpha"], holds_model=holds_model)),
        companions=(),
        nbytes=bundle.nbytes,
        filed=Filed("loralib", metadata=bundle.metadata, order=tuple(bundle.tensors)),
    )


def _sorted(bundle: Bundle) -> tuple[Mapping[str, Mapping[str, Source]], Mapping[str, Source]]:
    """The factors of each layer, and the other tensors by their keys, in file order."""
    modules: dict[str, dict[str, Source]] = {}
    whole = {}
    for key, source in bundle.tensors.items():
        if split := _FACTORS.split(key):
            modules.setdefault(split.module, {})[split.part] = source
        elif kind := named_part(key):
            raise UnsupportedError(
                f"{bundle.where}: {shorten(key)}: {kind}, which microsoft/LoRA does not have",
                tensor=key,
            )
        else:
            whole[key] = source
    return modules, whole


def _notes(bundle: Bundle, alpha: str, *, holds_model: bool) -> Iterator[Note]:
    if bundle.config is not None:
        yield Note("info", "a config does not belong to this format, and is not used")
    if alpha == "auto":
        yield Note(
            "problem",
            "nothing says its alpha: taken as the rank, a scaling of 1, which is a guess "
            f"(microsoft/LoRA's default alpha is 1 at any rank); say it with {of_format('alpha')}",
            trap="missing-alpha",
        )
    if holds_model:
        yield Note(
            "problem",
            "holds weights of the layers that it updates, which are taken for the model's own: if "
            "it was saved in eval mode, they contain the updates already (merge_weights)",
        )
