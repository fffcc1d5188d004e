"""Tensors of any dtype: a verb computes with all of what is stored, or carries or refuses it."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import loratools
from loratools import Combination, MethodOptions, RankRule, Rescaling, errors
from loratools.io.dtypes import BITS, FACTORS, FLOATS, nbytes, to_torch
from tests.merged import PREFIX, eighths, merged, pair, write_adapter, write_base
from tests.verbs import RESHAPING, VERBS

OF_8_BITS = tuple(dtype for dtype in FACTORS if dtype not in FLOATS)
OTHERS = sorted(set(BITS) - set(FACTORS))
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base", {"q.weight": eighths(6, 4), "q.bias": eighths(6)})


def factors(rank: int = 2) -> dict[str, Tensor]:
    """Every kind of part that a PEFT adapter has, of values that 8 bits hold."""
    return {**pair("q", 6, 4, rank=rank), "q.lora_B.bias": eighths(6)}


def twins(folder: Path, dtype: str) -> tuple[Path, Path]:
    """The same adapter in 8 bits, and in float16."""
    narrow = {name: tensor.to(to_torch(dtype)) for name, tensor in factors().items()}
    wide = {name: tensor.half() for name, tensor in narrow.items()}
    config = {"lora_bias": True, "target_modules": ["q"]}
    return (
        write_adapter(folder / "narrow", narrow, **config),
        write_adapter(folder / "wide", wide, **config),
    )


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    torch.testing.assert_close(dict(one), dict(other), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", OF_8_BITS)
def test_8_bits_are_merged_as_the_numbers_they_are(base: Path, tmp_path: Path, dtype: str) -> None:
    narrow, wide = twins(tmp_path, dtype)
    found, _ = merged(base, narrow, output=tmp_path / "from narrow")
    expected, _ = merged(base, wide, output=tmp_path / "from wide")
    same(found, expected)


@pytest.mark.parametrize("dtype", OF_8_BITS)
def test_what_is_computed_from_8_bits_is_stored_in_float16(tmp_path: Path, dtype: str) -> None:
    narrow, wide = twins(tmp_path, dtype)
    for name, adapter in (("narrow", narrow), ("wide", wide)):
        loratools.resize(adapter, output=tmp_path / f"resized {name}", rule=RankRule(rank=1))
        loratools.combine([adapter, adapter], output=tmp_path / f"combined {name}")
        loratools.combine(
            [adapter, adapter],
            output=tmp_path / f"ties {name}",
            combination=Combination("ties", MethodOptions(density=0.5)),
            rule=RankRule(rank=2),
        )
        folded = Rescaling(strength=1.1, fold=True)
        loratools.rescale(adapter, output=tmp_path / f"folded {name}", rescaling=folded)
    for verb in ("resized", "combined", "ties", "folded"):
        found = load_file(tmp_path / f"{verb} narrow" / WEIGHTS)
        assert found[f"{PREFIX}q.lora_B.weight"].dtype == torch.float16, verb
        expected = load_file(tmp_path / f"{verb} wide" / WEIGHTS)
        same({name: tensor.half() for name, tensor in found.items()}, expected)


@pytest.mark.parametrize("dtype", OF_8_BITS)
def test_another_strength_leaves_the_bytes_of_8_bits(tmp_path: Path, dtype: str) -> None:
    narrow, _ = twins(tmp_path, dtype)
    loratools.rescale(narrow, output=tmp_path / "rescaled", rescaling=Rescaling(strength=0.5))
    before, after = (folder / WEIGHTS for folder in (narrow, tmp_path / "rescaled"))
    assert _bytes(after) == _bytes(before)


@pytest.mark.parametrize("dtype", OF_8_BITS)
def test_nan_of_8_bits_is_found(tmp_path: Path, dtype: str) -> None:
    broken = factors()
    broken["q.lora_A.weight"][0, 0] = torch.nan
    narrow = {name: tensor.to(to_torch(dtype)) for name, tensor in broken.items()}
    adapter = write_adapter(tmp_path / "adapter", narrow, target_modules=["q"], lora_bias=True)
    found = loratools.inspect(adapter, spectrum=True)
    assert found.nonfinite == (f"{PREFIX}q.lora_A.weight",)


@pytest.mark.parametrize("dtype", OTHERS)
def test_update_of_anything_else_is_refused_by_every_verb(
    base: Path, tmp_path: Path, dtype: str
) -> None:
    adapter = _stored(tmp_path / "adapter", dtype, f"{PREFIX}q.lora_B.weight", (8, 2))
    runs = [verb.in_python for verb in VERBS.values() if verb.in_python is not None]
    for run in (lambda base, one, other, output: loratools.inspect(one), *runs):
        with pytest.raises(errors.UnsupportedError, match=f"lora_B.weight: is stored as {dtype}"):
            run(base, adapter, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [*OTHERS, *OF_8_BITS])
def test_whole_tensor_of_any_dtype_is_carried_as_bytes(
    base: Path, tmp_path: Path, dtype: str
) -> None:
    """By every verb that makes adapters from adapters."""
    adapter = _stored(tmp_path / "adapter", dtype, f"{PREFIX}head.table", (8,))
    for name, run in RESHAPING.items():
        run(base, adapter, adapter, tmp_path / name)
        written, stored = (_bytes(folder / WEIGHTS) for folder in (tmp_path / name, adapter))
        assert written[f"{PREFIX}head.table"] == stored[f"{PREFIX}head.table"]


@pytest.mark.parametrize("dtype", OTHERS)
def test_whole_tensor_of_any_dtype_is_merged_as_bytes(
    base: Path, tmp_path: Path, dtype: str
) -> None:
    adapter = _stored(tmp_path / "adapter", dtype, f"{PREFIX}head.table", (8,))
    loratools.merge(base, [adapter, adapter], output=tmp_path / "merged")
    merged_bytes = _bytes(tmp_path / "merged" / "model.safetensors")
    assert merged_bytes["head.table"] == _bytes(adapter / WEIGHTS)[f"{PREFIX}head.table"]


def test_whole_tensors_that_are_no_floats_have_no_average(tmp_path: Path) -> None:
    one, two = (
        write_adapter(
            tmp_path / str(phase),
            {**pair("q", 6, 4), "head.table": torch.full((3,), phase * 1j)},
            modules_to_save=["head"],
            target_modules=["q"],
        )
        for phase in (1, 2)
    )
    with pytest.raises(errors.UnsupportedError, match=r"head\.table: is stored as complex64"):
        loratools.combine(
            [one, two], output=tmp_path / "out", combination=Combination(replaced="average")
        )


def _stored(folder: Path, dtype: str, key: str, shape: tuple[int, ...]) -> Path:
    """An adapter with one tensor of a dtype that torch need not know, of the bytes 0, 1, 2 ..."""
    config = {"modules_to_save": ["head"], "target_modules": ["q"]}
    write_adapter(folder, pair("q", 6, 4), **config)
    tensors = _bytes(folder / WEIGHTS)
    tensors[key] = (dtype, shape, bytes(range(nbytes(dtype, shape))))
    header, data = {}, b""
    for name, (code, sizes, content) in tensors.items():
        end = len(data) + len(content)
        header[name] = {"dtype": code, "shape": sizes, "data_offsets": [len(data), end]}
        data += content
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def _bytes(file: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The dtype, the shape and the bytes of every tensor in a file."""
    content = file.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:length]), content[length:]
    header.pop("__metadata__", None)
    return {
        name: (t["dtype"], tuple(t["shape"]), data[slice(*t["data_offsets"])])
        for name, t in header.items()
    }
