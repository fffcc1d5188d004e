"""PEFT applies the update of a MultiheadAttention's out_proj twice."""

from loratools.traps._trap import Trap


class _OutProj(Trap):
    what = "PEFT applies the update of the `out_proj` of a `torch.nn.MultiheadAttention` twice."
    readers = (
        "PEFT 0.15 to 0.21.2, in training and in merging; a program that applies it once gets "
        "half of what was trained"
    )
    cure = (
        "it counts twice here, or as `--out-proj` says; in other formats it is written with twice "
        "the alpha"
    )
    found_by = "every verb"


TRAP = _OutProj()
