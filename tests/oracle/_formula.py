"""The merged weights of an adapter in float64, by the formulas of the papers.

Written for the tests alone, on the tensors as PEFT stores them; the layer's class says how its
weight is stored, and PEFT's live layers say the scaling.
"""

from collections.abc import Mapping
from typing import Any, final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tests.oracle._zoo import Made

PREFIX = "base_model.model."


@final
class Expected:
    """What a merge of `made` must give, before rounding: `weights`, all tensors by name.

    To bound the errors of others: `terms` is what was summed for each element, |W| + Σ|s·B·A|,
    and `operations` how many roundings, each relative to that, the element went through.
    """

    def __init__(self, made: Made) -> None:
        stored = load_file(made.folder / "adapter" / "adapter_model.safetensors")
        self.weights = {name: tensor.double() for name, tensor in made.base.items()}
        self.terms = {name: tensor.abs() for name, tensor in self.weights.items()}
        self.operations = dict.fromkeys(self.weights, 4)
        modules: dict[str, dict[str, Tensor]] = {}
        for key, tensor in stored.items():
            name = key.removeprefix(PREFIX)
            if ".original_module." in name:
                continue
            if ".trainable_tokens_delta" in name:
                config: Any = made.model.peft_config["default"]
                indices = config.trainable_token_indices["tokens"]
                self.weights["tokens.weight"][torch.tensor(indices)] = tensor.double()
            elif ".lora_" in name:
                module, _, part = name.partition(".lora_")
                modules.setdefault(module, {})[part] = tensor.double()
            else:
                plain = name.replace(".base_layer", "").replace(".modules_to_save", "")
                self.weights[plain] = tensor.double()
        for module, parts in modules.items():
            self._apply(made, module, parts)

    def _apply(self, made: Made, module: str, parts: Mapping[str, Tensor]) -> None:
        scaling = made.scalings[module]
        layer = made.layers[module.replace(".base_layer", "")]
        owner = module.replace(".base_layer", "")
        name = f"{owner}.weight"
        if isinstance(layer, nn.MultiheadAttention):
            name = f"{owner}.in_proj_weight"
        elif module.endswith(".base_layer.out_proj"):
            scaling *= 2  # what PEFT does: in merge, and around each forward
        weight = self.weights[name]
        update = product(layer, parts, scaling)
        if "diag" in parts:
            weight = without_smallest(weight, len(parts["diag"]))
        self.terms[name] = weight.abs() + product(layer, _absolute(parts), abs(scaling))
        self.operations[name] += next(t for part, t in parts.items() if "A" in part).shape[0]
        merged = weight + update
        if "magnitude_vector" in parts:
            factor = dora_factor(layer, merged, parts["magnitude_vector"])
            self.operations[name] += merged.numel() // factor.numel()  # the squares of a norm
            merged, self.terms[name] = merged * factor, self.terms[name] * factor
        self.weights[name] = merged
        if "B.bias" in parts and not isinstance(layer, nn.MultiheadAttention):
            bias, added = f"{owner}.bias", made.scalings[module] * parts["B.bias"]
            self.terms[bias] = self.weights[bias].abs() + added.abs()
            self.weights[bias] = self.weights[bias] + added


def product(layer: nn.Module, parts: Mapping[str, Tensor], scaling: float) -> Tensor:
    """dW = scaling * B A, in the shape in which the layer stores its weight."""
    if isinstance(layer, nn.Embedding):
        return scaling * (parts["embedding_B"] @ parts["embedding_A"]).T
    down, up = parts["A.weight"], parts["B.weight"]
    if "diag" in parts:  # KaSA
        up = up * parts["diag"]
    if isinstance(layer, nn.Linear):  # BD-LoRA stores the blocks of a factor under each other
        down = torch.block_diag(*down.chunk(layer.in_features // down.shape[1]))
        up = torch.block_diag(*up.chunk(down.shape[0] // up.shape[1]))
    update = scaling * torch.einsum("or...,ri...->oi...", up.expand(-1, -1, *down.shape[2:]), down)
    return update.T if isinstance(layer, Conv1D) else update


def dora_factor(layer: nn.Module, merged: Tensor, magnitude: Tensor) -> Tensor:
    """The magnitude over the norm: over a layer's inputs; for an embedding, over its tokens."""
    if isinstance(layer, Conv1D | nn.Embedding):
        return magnitude / merged.square().sum(0).sqrt()
    inputs = tuple(range(1, merged.dim()))
    column = magnitude.reshape(-1, *(1 for _ in inputs))
    return column / merged.square().sum(inputs, keepdim=True).sqrt()


def without_smallest(weight: Tensor, rank: int) -> Tensor:
    """KaSA's weight: the best approximation with `rank` singular components less."""
    values, vectors = torch.linalg.eigh(weight @ weight.T)
    del values  # ascending
    smallest = vectors[:, : max(0, weight.shape[0] - (min(weight.shape) - rank))]
    part: Tensor = smallest @ (smallest.T @ weight)
    return weight - part


def _absolute(parts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {part: tensor.abs() for part, tensor in parts.items()}
