"""PEFT applies the update of a MultiheadAttention's out_proj twice."""

from loratools.traps._trap import Trap
from loratools.typed import of_format


class _OutProj(Trap):
    what = "PEFT applies the update of the `out_proj` of a `torch.nn.MultiheadAttention` twice."
    readers = (
        "PEFT 0.15 to 0.21.2, in training and in merging; a program that applies it once gets "
        "half of what was trained"
    )
    found_by = "every verb"

    @property
    def cure(self) -> str:
        """What is done about it."""
        return (
            f"it counts twice here, or as `{of_format('out_proj')}` says; in other formats it is "
            f"written with twice the alpha"
        )


TRAP = _OutProj()
