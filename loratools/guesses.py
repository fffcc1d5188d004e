"""What was meant by an attribute that an object lacks, for those who know other libraries."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Self

from loratools.errors import ArgumentError, shorten

#: What other libraries call the attributes of a target.
OF_A_TARGET = {
    "up": ("lora_up", "lora_B", "B", "b", "up_weight"),
    "down": ("lora_down", "lora_A", "A", "a", "down_weight"),
    "update()": (
        "delta_weight",
        "get_delta_weight",
        "dW",
        "dw",
        "diff",
        "weight",
        "data",
        "tensor",
        "matrix",
        "dense",
        "to_dense",
        "numpy",
        "full",
        "to",
        "cpu",
        "cuda",
        "half",
        "float",
        "dtype",
        "device",
    ),
    "singular_values()": ("svd", "svdvals", "S", "s", "sigma", "spectrum", "singular"),
    "norm()": ("frobenius", "magnitude"),
    "alpha": ("lora_alpha", "network_alpha"),
    "rank": ("r", "dim", "lora_dim", "network_dim"),
    "scaling": ("scale", "multiplier", "strength"),
    "shape": ("size",),
    "parameters": ("numel", "num_parameters", "nelement"),
}
#: What other libraries call those of an adapter; what its targets have is told apart.
OF_AN_ADAPTER = {
    "list(adapter)": ("targets", "target_modules", "modules", "layers", "names"),
    "dict(adapter)": ("state_dict", "tensors", "named_parameters"),
    "where": ("name", "path", "filename", "file", "folder"),
    "provenance": ("base", "base_model", "base_model_name_or_path", "task_type"),
    "filed": ("config", "peft_config", "lora_config", "metadata"),
    "nbytes": ("size",),
    "kinds": ("kind", "type", "peft_type"),
    "save()": ("save_pretrained", "save_file", "write", "to_file"),
}


class Answering:
    """A class whose objects answer an attribute that they lack by the one that was meant."""

    #: What makes objects of the class, for those who call it with a path.
    _MADE_BY: ClassVar[str]

    def __new__(cls, *args: object, **fields: object) -> Self:
        """An object that is not initialized yet.

        Raises:
            ArgumentError: a path is given, or tensors, and nothing else.
        """
        if len(args) == 1 and not fields:
            raise ArgumentError(
                f"{cls.__name__}: more than {shorten(repr(args[0]), 60)} is needed",
                hint=cls._MADE_BY,
            )
        return super().__new__(cls)

    @classmethod
    def _meant(cls, name: str) -> str | None:
        """What to use in place of an attribute of another library; None if nothing is known."""
        raise NotImplementedError

    if not TYPE_CHECKING:  # which would take every attribute to be there

        def __getattr__(self, name: str) -> object:
            found = None if name.startswith("_") else self._meant(name)
            hint = "" if found is None else f"; {found}"
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")


def word_for(name: str, others: Mapping[str, Iterable[str]]) -> str | None:
    """Our word for the attribute of another library, from a table of such words."""
    return next((ours for ours, words in others.items() if name in words), None)
