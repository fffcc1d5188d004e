"""XLabs' LoRAs for FLUX.1: which weights the processors' factors belong to."""

import pytest
import torch
from torch import Tensor

from loratools.errors import FormatError, ShapeMismatchError, UnsupportedError
from loratools.formats import decode, encode
from tests.adapters import effects
from tests.formats.kohya.modules import bundle
from tests.narrowing import present

WIDTH, RANK = 6, 2


def factors(stem: str, rows: int, columns: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(sum(map(ord, stem)))
    return {
        f"{stem}.down.weight": torch.randn(RANK, columns, generator=random),
        f"{stem}.up.weight": torch.randn(rows, RANK, generator=random),
    }


def adapter_file(prefix: str = "") -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for stream in (1, 2):
        double = f"{prefix}double_blocks.3.processor"
        tensors |= factors(f"{double}.qkv_lora{stream}", 3 * WIDTH, WIDTH)
        tensors |= factors(f"{double}.proj_lora{stream}", WIDTH, WIDTH)
    single = f"{prefix}single_blocks.1.processor"
    tensors |= factors(f"{single}.qkv_lora", 3 * WIDTH, WIDTH)
    return tensors | factors(f"{single}.proj_lora", WIDTH, 5 * WIDTH)


def product(tensors: dict[str, Tensor], stem: str) -> Tensor:
    return tensors[f"{stem}.up.weight"].double() @ tensors[f"{stem}.down.weight"].double()


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_factors_update_the_layers_that_their_processor_calls(prefix: str) -> None:
    tensors = adapter_file(prefix)
    adapter = decode(bundle(tensors))
    assert present(adapter.filed).dialect == "xlabs"
    double, single = f"{prefix}double_blocks.3.processor", f"{prefix}single_blocks.1.processor"
    rest = torch.zeros(4 * WIDTH, WIDTH, dtype=torch.float64)
    expected = {
        "double_blocks.3.img_attn.qkv.weight": product(tensors, f"{double}.qkv_lora1"),
        "double_blocks.3.img_attn.proj.weight": product(tensors, f"{double}.proj_lora1"),
        "double_blocks.3.txt_attn.qkv.weight": product(tensors, f"{double}.qkv_lora2"),
        "double_blocks.3.txt_attn.proj.weight": product(tensors, f"{double}.proj_lora2"),
        "single_blocks.1.linear1.weight": torch.cat([product(tensors, f"{single}.qkv_lora"), rest]),
        "single_blocks.1.linear2.weight": product(tensors, f"{single}.proj_lora"),
    }
    found = effects(adapter)
    assert found.keys() == expected.keys()
    for target, effect in expected.items():
        torch.testing.assert_close(found[target], effect, rtol=0, atol=0)


def test_they_mean_what_diffusers_converts_them_to() -> None:
    """The weights of diffusers' model are rows of those of the original one."""
    loading = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    tensors = adapter_file()
    converted = loading._convert_xlabs_flux_lora_to_diffusers(dict(tensors))
    found = effects(decode(bundle(tensors)))
    block, single = (
        "transformer.transformer_blocks.3.attn",
        "transformer.single_transformer_blocks.1",
    )
    rows = {
        "double_blocks.3.img_attn.qkv": [f"{block}.to_{part}" for part in "qkv"],
        "double_blocks.3.img_attn.proj": [f"{block}.to_out.0"],
        "double_blocks.3.txt_attn.qkv": [f"{block}.add_{part}_proj" for part in "qkv"],
        "double_blocks.3.txt_attn.proj": [f"{block}.to_add_out"],
        "single_blocks.1.linear1": [f"{single}.attn.to_{part}" for part in "qkv"],
        "single_blocks.1.linear2": [f"{single}.proj_out"],
    }
    assert len(converted) == 2 * sum(map(len, rows.values()))
    for module, names in rows.items():
        products = [
            converted[f"{name}.lora_B.weight"].double()
            @ converted[f"{name}.lora_A.weight"].double()
            for name in names
        ]
        together = torch.cat(products)
        effect = found[f"{module}.weight"]
        torch.testing.assert_close(effect[: len(together)], together, rtol=0, atol=0)
        assert not effect[len(together) :].any()


def test_it_is_only_read() -> None:
    adapter = decode(bundle(adapter_file()))
    with pytest.raises(UnsupportedError, match="the format xlabs is read and not written: written"):
        encode(adapter)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"double_blocks.3.processor.ip_adapter.weight": (2,)}, FormatError, "ip_ad.* unknown key"),
        ({"double_blocks.9.processor.qkv_lora1.up.weight": (6, 2)}, FormatError, "half an update"),
        *(
            ({"single_blocks.1.processor.qkv_lora.up.weight": shape}, ShapeMismatchError, "not fit")
            for shape in [(9, 2, 1), (3 * WIDTH + 1, RANK), (3 * WIDTH, RANK + 1)]
        ),
        (
            {"diffusion_model.double_blocks.3.processor.qkv_lora1.up.weight": (18, 2)},
            FormatError,
            "diffusion_model.* means the same tensor as double_blocks",
        ),
    ],
)
def test_what_cannot_be_read_is_named(
    change: dict[str, tuple[int, ...]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        decode(bundle(adapter_file() | {key: torch.ones(shape) for key, shape in change.items()}))
