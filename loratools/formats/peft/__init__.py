"""PEFT's adapters: `adapter_config.json` and `adapter_model.safetensors`."""

from loratools.formats import ALPHA, Dialect, Option
from loratools.formats.peft.card import USAGE, base_class

DIALECT = Dialect(
    name="peft",
    weights="adapter_model.safetensors",
    # The names that transformers uses, which splits weights that PEFT writes as one file.
    indexes=("model.safetensors.index.json", "pytorch_model.bin.index.json"),
    config="adapter_config.json",
    base_field="base_model_name_or_path",
    revision_field="revision",
    prefix="base_model.model.",
    library="peft",
    usage=USAGE,
    base_class=base_class,
    reads=("LoRA", "DoRA", "KaSA", "diff"),
    writes=("LoRA", "DoRA", "KaSA", "diff"),
    module_fields=(
        "target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "rank_pattern",
        "alpha_pattern", "target_parameters", "trainable_token_indices", "feedforward_modules",
    ),
    options=(
        Option(
            "out_proj",
            ("auto", "once", "twice"),
            "How often a MultiheadAttention's out_proj update counts; auto: as the PEFT that "
            "wrote it applied it.",
        ),
        ALPHA,
    ),
)  # fmt: skip
