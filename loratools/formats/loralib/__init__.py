"""State dicts of microsoft/LoRA (`loralib`), with or without the weights of the model in them."""

from loratools.formats import ALPHA, Dialect, Option

DIALECT = Dialect(
    name="loralib",
    reads=("LoRA", "stacked LoRA"),
    options=(
        ALPHA,
        Option(
            "enable_lora",
            ("auto", "10", "01", "100", "010", "001", "110", "101", "011"),
            "The updated parts of a MergedLinear of microsoft/LoRA: 101 for query and value of "
            "three; auto: all, or as the weights in the file show.",
        ),
    ),
)
