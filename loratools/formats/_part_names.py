"""The names that tensors of updates have in all known dialects and methods.

A tensor with such a name is a part of an update, and must not be taken for a whole weight. A part's
name follows the name of a module. Some names occur in updates only; PEFT may append the name of the
adapter to them. Others are words that may also be the names of a model's own parameters.
"""

import re

#: Parts of LyCORIS and related methods, as they are named in kohya's files.
_LYCORIS = (
    (r"hada_(w[12]_[ab]|t[12])", "LoHa (LyCORIS)"),
    (r"lokr_(w[12](_[ab])?|t[12])", "LoKr (LyCORIS)"),
    (r"dora_scale|magnitude", "DoRA"),
    (r"lora_mid\.weight", "a LoCon with a Tucker core"),
    (r"diff(_b)?", "a difference stored whole"),
    (r"(set|reshape)_weight", "a weight or a shape that replaces the base's (ComfyUI)"),
    (r"[wb]_norm", "a trained norm"),
    (r"on_input", "IA3"),
    (r"oft_(blocks|diag|R\.weight)|rescale", "OFT or BOFT"),
    (r"(a1|a2|b1|b2|bm)(\.weight)?", "GLoRA"),
    (r"bias_(indices|values|size)", "a sparse bias (LyCORIS)"),
)
#: Words that are parts in one dialect, and may be a model's own parameters in another.
_WORDS = (
    (r"alpha", "an alpha as kohya stores it"),
    (r"scalar", "a scalar of LyCORIS"),
    *_LYCORIS,
)
_OTHER_METHOD = "a part of another PEFT method"
#: Names that occur in updates only.
_NAMES = (
    (r"([^.]*_)?lora\.(down|up)|lora_(down|up)", "a factor of LoRA (kohya, diffusers)"),
    (r"lora_(mid|a|b)", "a factor of LoRA (LyCORIS, MLX)"),
    (r"hada_(w[12]_[ab]|t[12])", "a factor of LoHa"),
    (r"lokr_(w[12](_[ab])?|t[12])", "a factor of LoKr"),
    (r"dora_scale", "a magnitude of DoRA"),
    (r"b?oft_((embedding_)?[Rrs]|blocks|diag)", "a part of OFT or BOFT"),
    (r"ia3_l", "a vector of IA3"),
    (r"p?vera_(lambda_[bd]|[AB])", "a part of VeRA"),
    (r"(randlora|frod)_(lambda|gamma|A|B)(_\w+)?", "a part of RandLoRA or FRoD"),
    (r"vblora_(logits_[AB]|vector_bank)", "a part of VB-LoRA"),
    (r"(adamss|delora|gralora|hira|lily|peanut)_(embedding_)?[AB](_general)?", _OTHER_METHOD),
    (r"(supertuning|poly)_lora_[AB]|supertuning_values|delora_lambda", _OTHER_METHOD),
    (r"(fourierft|waveft)_spectrum|c3a_kernel|hra_u|(miss|bone)_block", _OTHER_METHOD),
    (r"road_(theta|alpha)|tinylora_v|unilora_theta_d|shira_weight", _OTHER_METHOD),
    (r"deft_[PR]|psoft_R|beft_bias", _OTHER_METHOD),
    (r"_?flat_param(_\d+)?", "parameters that FSDP has flattened"),
)

_AFTER_A_DOT = tuple((re.compile(rf"\.({part})$"), kind) for part, kind in _LYCORIS)
_WORD = tuple((re.compile(rf"(^|\.)({part})$"), kind) for part, kind in _WORDS)
_NAME = tuple(
    (re.compile(rf"(^|\.)({part})(\.[^.]+)?(\.(weight|bias))?$"), kind) for part, kind in _NAMES
)


def lycoris_kind(key: str) -> str | None:
    """The kind of update that a tensor of LyCORIS belongs to, by its key; None for other keys."""
    return next((kind for part, kind in _AFTER_A_DOT if part.search(key)), None)


def named_part(key: str) -> str | None:
    """A description of the tensor if only parts of updates have such a name, else None."""
    return next((kind for part, kind in _NAME if part.search(key)), None)


def possible_part(key: str) -> str | None:
    """A description of the part that a tensor may be by its name, else None.

    A model's own parameter may have the same name.
    """
    return next((kind for part, kind in _WORD if part.search(key)), None)
