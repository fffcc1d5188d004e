"""Adapters that the real PEFT makes and saves, and what a model computes with one in memory."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.utils import logging

Inputs = Mapping[str, Tensor]

#: Products in a row, and terms of each, in the models of these tests: at most.
_DEPTH, _TERMS = 40, 100


def live(model: nn.Module, folder: Path, inputs: Inputs, **settings: Any) -> Tensor:
    """The logits of a model with an adapter, which is saved into `folder`.

    The adapter is read back, as its tensors on disk are what is merged.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                size = 0.25 * float(parameter.mean()) if "magnitude" in name else 1 / 16
                parameter.add_(torch.randn_like(parameter) * size)
    adapted.save_pretrained(str(folder))
    again = PeftModel.from_pretrained(adapted.unload(), folder)
    return logits(again, inputs)


@torch.no_grad()
def logits(model: nn.Module, inputs: Inputs) -> Tensor:
    """The logits of a model."""
    result: Tensor = model.eval()(**inputs).logits
    return result


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Both were computed in float32, in another order of their terms."""
    allowed = 4 * (_DEPTH * _TERMS) ** 0.5 * 2.0**-24 * float(expected.abs().max())
    assert float((actual - expected).abs().max()) <= allowed


def assert_changed(actual: Tensor, expected: Tensor) -> None:
    """The two differ by far more than rounding."""
    assert float((actual - expected).abs().max()) > 0.01 * float(expected.abs().max())


def load(cls: Callable[..., Any], folder: Path) -> Any:
    """A model as transformers reads it from a folder, complete."""
    model, info = cls(folder, output_loading_info=True)
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    return model
