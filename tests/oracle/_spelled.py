"""One adapter of all linear and convolutional layers of a pipeline, spelled in three ways."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from tests.oracle._families import (
    Family,
    Stored,
    Tensors,
    indices,
    original,
    parts,
    saved,
)

LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d)
#: The ranks and alphas of the layers, in turn.
SIZES = ((2, 1), (4, 8), (8, 2))


@final
@dataclass(frozen=True)
class Layer:
    """A LoRA of one layer by its original name, and which of its rows are which of diffusers'.

    `rows` are the rows of `up` by the names of layers in diffusers.
    """

    stored: Stored
    name: str
    up: Tensor
    down: Tensor
    alpha: int
    rows: Mapping[str, list[int]]

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def update(self) -> Tensor:
        """The sum that it adds to the weight of the layer, as a matrix in float64."""
        return self._product(self.up, self.down)

    @property
    def absolute(self) -> Tensor:
        """The same sum of the absolute values of all products, which bounds its rounding."""
        return self._product(self.up.abs(), self.down.abs())

    def _product(self, up: Tensor, down: Tensor) -> Tensor:
        return up.double().flatten(1) @ down.double().flatten(1) * (self.alpha / self.rank)


def layers(family: Family, made: Any) -> list[Layer]:
    """A LoRA of every layer of the models that diffusers trains adapters for."""
    random = torch.Generator().manual_seed(2)
    found: list[Layer] = []
    for stored in family.stored:
        if stored.component not in made._lora_loadable_modules:
            continue
        model = getattr(made, stored.component)
        for name, (shape, rows) in _modules(stored, model, saved(made, stored.component)).items():
            rank, alpha = SIZES[len(found) % len(SIZES)]
            up = _integers(random, (shape[0], rank, *[1] * (len(shape) - 2)))
            down = _integers(random, (rank, *shape[1:]))
            found.append(Layer(stored, name, up, down, alpha, rows))
    return found


def _integers(random: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(-2, 3, shape, generator=random).float() / 8


def _modules(
    stored: Stored, model: Any, tensors: Tensors
) -> dict[str, tuple[tuple[int, ...], dict[str, list[int]]]]:
    """The layers of a model by the names that adapters have in the original layout.

    Adapters have the names of transformers for text encoders, which are never fused.
    """
    kinds = {f"{name}.weight": name for name, m in model.named_modules() if isinstance(m, LAYERS)}
    shapes = {name: tuple(t.shape) for name, t in original(stored, tensors).items()}
    found: dict[str, tuple[tuple[int, ...], dict[str, list[int]]]] = {}
    for part in parts(stored, tensors):
        if part.diffusers not in kinds:
            continue
        own = tuple(tensors[part.diffusers].shape)
        layer = kinds[part.diffusers]
        if stored.component.startswith("text_encoder"):
            name = (
                layer if layer.startswith(("text_model.", "text_proj")) else f"text_model.{layer}"
            )
            found[name] = own, {layer: list(range(own[0]))}
        else:
            shape = shapes[part.original]
            _, rows = found.setdefault(part.original.removesuffix(".weight"), (shape, {}))
            rows[layer] = indices(part.rows, shape[0], own[0])
    return found


def kohya(found: list[Layer]) -> Tensors:
    """The file of kohya's trainer, or of musubi-tuner."""

    def module(layer: Layer) -> str:
        name = next(iter(layer.rows)) if layer.stored.has_diffusers_names else layer.name
        return f"{layer.stored.kohya}{name.replace('.', '_')}"

    return _modules_file(found, module, "lora_down", "lora_up")


def comfyui(found: list[Layer]) -> Tensors:
    """A file for ComfyUI, with PEFT's names of factors."""
    return _modules_file(found, lambda layer: layer.stored.comfyui + layer.name, "lora_A", "lora_B")


def _modules_file(
    found: list[Layer], module: Callable[[Layer], str], down: str, up: str
) -> Tensors:
    tensors = {}
    for layer in found:
        name = module(layer)
        tensors[f"{name}.{down}.weight"] = layer.down
        tensors[f"{name}.{up}.weight"] = layer.up
        tensors[f"{name}.alpha"] = torch.tensor(float(layer.alpha))
    return tensors


def trained(made: Any, found: list[Layer]) -> Any:
    """The pipeline with the same adapter in its layers, as PEFT trains it."""
    for component in dict.fromkeys(layer.stored.component for layer in found):
        own = {
            n: layer for layer in found if layer.stored.component == component for n in layer.rows
        }
        model = getattr(made, component)
        model.add_adapter(
            LoraConfig(
                r=SIZES[0][0],
                lora_alpha=SIZES[0][1],
                target_modules=list(own),
                rank_pattern={f"^{name}": layer.rank for name, layer in own.items()},
                alpha_pattern={f"^{name}": layer.alpha for name, layer in own.items()},
            )
        )
        for name, layer in own.items():
            module = model.get_submodule(name)
            module.lora_A["default"].weight.data = layer.down.clone()
            module.lora_B["default"].weight.data = layer.up[layer.rows[name]].clone()
    return made


def save_diffusers(made: Any, folder: Path) -> Path:
    """Save the adapters of all components as the training scripts of diffusers do."""
    models = {name: getattr(made, name) for name in made._lora_loadable_modules}
    models = {name: m for name, m in models.items() if m is not None and m._hf_peft_config_loaded}
    found = {f"{name}_lora_layers": get_peft_model_state_dict(m) for name, m in models.items()}
    made.save_lora_weights(folder, **found, **_collate_lora_metadata(models))
    return folder
