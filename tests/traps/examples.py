"""The smallest adapter that has each trap, and adapters that nearly have it and are sound."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from loratools.adapter import Adapter
from loratools.deltas.lora import LoRA, Scaling
from loratools.files.opening import open_base
from loratools.formats import decode
from loratools.io.bundle import Bundle
from loratools.io.checkpoint import Checkpoint
from loratools.io.companions import Companion
from loratools.io.source import Held
from tests.formats import bundles
from tests.formats.kohya.modules import TEXT, TRAINED, UNET, bundle, module
from tests.reshaping.adapters import adapter, lora

BASE = Path(__file__).parents[2] / "fixtures" / "stories260k"
QKV = "lora_unet_double_blocks_0_img_attn_qkv"
Q = "model.layers.0.self_attn.q_proj"


@final
@dataclass(frozen=True)
class Example:
    """Adapters with and without a trap.

    Attributes:
        trapped: makes the adapter that has it.
        sound: makers of adapters that nearly have it.
        cured: the scalings after the repair, by target, where the repair changes scalings.
        base: the base without which the trap cannot be found.
    """

    trapped: Callable[[], Adapter]
    sound: Sequence[Callable[[], Adapter]] = ()
    cured: Mapping[str, float] = field(default_factory=dict)
    base: Path | None = None

    @property
    def checkpoint(self) -> Checkpoint | None:
        return None if self.base is None else open_base(self.base)


def kohya(*modules: Mapping[str, Tensor], **metadata: str) -> Callable[[], Adapter]:
    tensors = {key: tensor for module in modules for key, tensor in module.items()}
    return lambda: decode(bundle(tensors, metadata))


def peft(*modules: Mapping[str, tuple[int, ...]], **config: Any) -> Callable[[], Adapter]:
    shapes = {key: shape for module in modules for key, shape in module.items()}
    return lambda: bundles.decoded(shapes, **config)


def in_memory(
    *scalings: Scaling, format: str = "diffusers", keys: tuple[str, str] = ("down", "up")
) -> Callable[[], Adapter]:
    """An adapter in a format, with these scalings for its updates, and these names of factors."""
    updates = {}
    for number, scaling in enumerate(scalings):
        made = lora(number, (4, 3), rank=scaling.rank)
        down, up = (Held(key, s.read(), "F32") for key, s in zip(keys, made.sources, strict=True))
        updates[f"transformer.blocks.{number}.to_q.weight"] = LoRA(up, down, scaling, made.shape)
    return lambda: adapter(updates, format=format)


def fused(alpha: float, *heights: int, rank: int = 2, swapped: bool = False) -> dict[str, Tensor]:
    """A module whose `lora_up` has a block of each height, in its order or not."""
    blocks = [torch.ones(height, rank) for height in heights]
    up = torch.block_diag(*blocks)
    shape = (up.shape[0], 3)
    tensors = module(QKV, shape, rank=up.shape[1], alpha=alpha, dtype=torch.float32)
    return tensors | {f"{QKV}.lora_up.weight": up.flip(0) if swapped else up}


def merged_linear() -> Adapter:
    """An update that is fused too, whose alpha is divided by the rank of one part."""
    made = kohya(fused(1, 4, 4, 4), OTHER)()
    update = made.updates[f"{QKV}.weight"]
    scaling = Scaling(1, 2, "rank", "config")
    return replace(
        made,
        updates={
            **made.updates,
            f"{QKV}.weight": replace(update, delta=update.delta.with_scaling(scaling)),
        },
    )


def with_tokens(folder: Path, tokens: Mapping[str, int]) -> Adapter:
    """An adapter with these tokens in the `added_tokens.json` of a folder."""
    (folder / "added_tokens.json").write_text(json.dumps(tokens))
    made = peft(bundles.lora(Q, rows=64, columns=64))()
    return replace(made, companions=(Companion(folder, "added_tokens.json"),))


def named(name: str) -> Callable[[], Adapter]:
    tensors = {
        f"{bundles.PREFIX}{Q}.{part}{name}.weight": shape
        for part, shape in (("lora_A", (2, 3)), ("lora_B", (4, 2)))
    }
    return peft(tensors)


def rounded(dtype: torch.dtype, stated: str, alpha: float) -> Callable[[], Adapter]:
    return kohya(module(alpha=alpha, dtype=dtype), **TRAINED | {"ss_network_alpha": stated})


def attention(**config: Any) -> Callable[[], Adapter]:
    """A MultiheadAttention as PEFT stores it, with its projections."""
    inner = bundles.lora("attn.base_layer.out_proj", rows=4, columns=4)
    return peft(bundles.lora("attn", rows=12, columns=4), inner, **config)


def beside(*files: str) -> Callable[[], Adapter]:
    return lambda: replace(peft(bundles.lora(Q))(), beside=files)


OTHER = module(TEXT, alpha=1)
HALF = Scaling(1, 2, "rank", "metadata")

EXAMPLES: Mapping[str, Example] = {
    "adapter-name": Example(
        named(".default"),
        [named(""), in_memory(HALF, keys=("q.lora_linear_layer.down.weight", "q_lora.up.weight"))],
    ),
    "dropped-alpha": Example(
        in_memory(Scaling(1, 2, "rank", "tensor")),
        [
            in_memory(Scaling(2, 2, "rank", "tensor")),
            in_memory(Scaling(1, 2, "rank", "metadata")),
            in_memory(Scaling(1, 2, "rank", "tensor"), format="kohya"),
        ],
        {"transformer.blocks.0.to_q.weight": 0.5},
    ),
    "metadata-alpha": Example(
        in_memory(HALF),
        [
            in_memory(replace(HALF, alpha=2)),
            in_memory(replace(HALF, alpha=0)),
            peft(bundles.lora("q"), alpha_pattern={"q": 1}),
        ],
    ),
    "missing-alpha": Example(
        kohya(module(alpha=None), OTHER),
        [kohya(module(alpha=2), OTHER)],
        {f"{UNET}.weight": 1.0, f"{TEXT}.weight": 0.5},
    ),
    "mixed-ranks": Example(
        peft(bundles.lora("q"), bundles.lora("k", rank=4), rank_pattern={"k": 4}),
        [
            peft(bundles.lora("q"), bundles.lora("k")),
            peft(
                bundles.lora("q"),
                bundles.lora("k", rank=4),
                rank_pattern={"k": 4},
                alpha_pattern={"k": 8},
            ),
        ],
    ),
    "out-proj": Example(
        attention(peft_version="0.19.0"), [peft(bundles.lora("attn.out_proj", rows=4, columns=4))]
    ),
    "placeholder-alpha": Example(
        kohya(module(alpha=9999999999, dtype=torch.bfloat16)),
        [kohya(module(alpha=64)), kohya(module(alpha=-2048))],
        {f"{UNET}.weight": 1.0},
    ),
    "rounded-alpha": Example(
        rounded(torch.bfloat16, "2.67", 2.67),
        [
            rounded(torch.float32, "2.67", 2.67),
            rounded(torch.bfloat16, "2.5", 2.5),
            kohya(module(alpha=2.67, dtype=torch.bfloat16)),
        ],
        {f"{UNET}.weight": torch.tensor(2.67).item() / 2},
    ),
    "rslora": Example(
        peft(bundles.lora("q", rank=4), r=4, use_rslora=True),
        [
            peft(bundles.lora("q", rank=4), r=4),
            peft(bundles.lora("q"), use_rslora=False),
            in_memory(replace(HALF, rule="sqrt_rank")),
        ],
        {"q.weight": 2.0},
    ),
    "several-alphas": Example(
        kohya(module("lora_unet_up_blocks_0_q", alpha=4), module(UNET), module(UNET + "_2")),
        [
            kohya(module(UNET, alpha=4), module(TEXT, alpha=1)),
            kohya(
                module("lora_unet_double_blocks_0_q", alpha=4), module("lora_unet_joint_blocks_q")
            ),
            kohya(module(UNET, rank=4), module(UNET + "_2", rank=2)),
        ],
    ),
    "small-matrices": Example(
        peft(bundles.lora(Q, rows=64, columns=32)),
        [peft(bundles.lora(Q, rows=64, columns=64)), peft(bundles.lora("elsewhere"))],
        base=BASE,
    ),
    "split-qkv": Example(
        kohya(fused(1, 4, 4, 4), OTHER),
        [
            kohya(fused(3, 4, 4, 4), OTHER),
            kohya(module(QKV, (12, 3), rank=6, alpha=1), OTHER),
            kohya(fused(1, 4, 4, 4, swapped=True), OTHER),
            kohya(fused(1, 4, 4, rank=3), module(TEXT, rank=2, alpha=2)),
            merged_linear,
        ],
        {f"{QKV}.weight": 0.5, f"{TEXT}.weight": 0.5},
    ),
    "stale-metadata": Example(
        kohya(module(alpha=1), **TRAINED | {"ss_network_dim": "4"}),
        [kohya(module(alpha=1), **TRAINED), kohya(module(alpha=1))],
    ),
    "stray-weights": Example(beside("value_head.safetensors"), [beside()]),
    "zero-alpha": Example(
        kohya(module(alpha=0), OTHER),
        [kohya(module(alpha=0.001), OTHER)],
        {f"{UNET}.weight": 1.0, f"{TEXT}.weight": 0.5},
    ),
}
#: Traps whose smallest adapter is a folder, or no adapter: they have tests of their own.
OTHERS = ("added-tokens", "ungathered")


def ungathered_bundle(key: str, *shape: int) -> Bundle:
    """A PEFT adapter with a tensor of this shape, such as one that was not gathered."""
    shapes = bundles.lora("q") | {f"{bundles.PREFIX}{key}": shape}
    tensors = {name: Held(name, torch.zeros(size), "F32") for name, size in shapes.items()}
    return Bundle("here", tensors, {}, bundles.config(), (), 0)
