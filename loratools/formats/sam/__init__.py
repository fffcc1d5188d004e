"""LoRA of Sam_LoRA, SAMed and LoRA-ViT, for query and value of vision transformers; only read."""

from loratools.formats import Dialect, Option

QKV = Option(
    "qkv",
    ("fused", "separate"),
    "For Sam_LoRA and LoRA-ViT: whether query and value are parts of blocks.N.attn.qkv, or are "
    "blocks.N.attn.proj_q and proj_v.",
)

DIALECT = Dialect(name="sam", options=(QKV,), reads=("LoRA",))
