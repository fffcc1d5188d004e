"""loratools merges what PEFT saved as PEFT does, and as the papers' formulas say in float64."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.oracles import oracle
from tests.reference import rounded, smallest, spacing, unit

oracle("peft")

import loratools  # noqa: E402
from tests.oracle._formula import Expected  # noqa: E402
from tests.oracle._zoo import Bias, Made, Settings, TransposedZoo, Zoo, make  # noqa: E402

pytestmark = pytest.mark.oracle


def merge(made: Made) -> Mapping[str, Tensor]:
    output = made.folder / "merged.safetensors"
    report = loratools.merge(
        made.folder / "base.safetensors",
        made.folder / "adapter",
        output=output,
        write=loratools.WriteOptions(jobs=1),
    )
    stored = load_file(made.folder / "adapter" / "adapter_model.safetensors")
    assert report.plan.accounting.total == len(stored)
    return load_file(output)


def check_formula(made: Made, merged: Mapping[str, Tensor], expected: Expected) -> None:
    """Every tensor is the float64 result, rounded once.

    Each sum of n terms has an error of at most n * u * Σ|terms|, where u is 2^-53, or 2^-24 for a
    bfloat16, which is computed in float32. Where the formula's value is that near to a tie, the
    result may be its other neighbour. In float64 that is no element of a test's; in float32 ties
    are 2^-8 apart and errors 2^-24, so it is about one element in 2^15: one in 10,000 may differ.
    """
    assert merged.keys() == made.base.keys()
    for name, tensor in merged.items():
        dtype, result = tensor.dtype, expected.weights[name]
        assert dtype == made.base[name].dtype, name
        wrong = int((tensor != rounded(result, dtype)).sum())
        assert wrong <= tensor.numel() * 1e-4, (name, wrong, tensor.numel())
        computed = 2.0**-24 if dtype == torch.bfloat16 else 2.0**-53
        allowed = (
            spacing(result, dtype) / 2 + expected.operations[name] * computed * expected.terms[name]
        )
        excess = (tensor.double() - result).abs() - allowed
        assert excess.max() <= 0, (name, float(excess.max()))


def check_peft(made: Made, merged: Mapping[str, Tensor], expected: Expected) -> None:
    """PEFT's merge is the same but for its own errors.

    It computes in float32, and then rounds to the weight's dtype, for some layers more than once:
    the update, the sum, and for out_proj both again. We round once.
    """
    theirs = made.peft_merge()
    assert merged.keys() == theirs.keys()
    for name, tensor in merged.items():
        errors = 5 * unit(tensor.dtype) + expected.operations[name] * 2.0**-24
        allowed = errors * expected.terms[name] + 3 * smallest(tensor.dtype)
        excess = (tensor.double() - theirs[name].double()).abs() - allowed
        assert excess.max() <= 0, (name, float(excess.max()))


def all_settings() -> Iterator[Settings]:
    """Every combination that PEFT allows: it refuses a `lora_bias` with DoRA."""
    flags = (False, True)
    biases: tuple[Bias, ...] = ("none", "all", "lora_only")
    for zoo, dora, bias in itertools.product((Zoo, TransposedZoo), flags, biases):
        for rslora, patterns, lora_bias, saved, tokens in itertools.product(flags, repeat=5):
            if dora and lora_bias:
                continue
            yield Settings(
                zoo=zoo,
                dora=dora,
                rslora=rslora,
                patterns=patterns,
                bias=bias,
                lora_bias=lora_bias,
                saved=saved,
                tokens=tokens,
            )


@pytest.mark.parametrize("settings", list(all_settings()), ids=str)
def test_every_combination_of_settings_merges_as_peft_does(
    settings: Settings, tmp_path: Path
) -> None:
    made = make(settings, tmp_path)
    merged, expected = merge(made), Expected(made)
    check_formula(made, merged, expected)
    check_peft(made, merged, expected)


def large_settings() -> Iterator[Settings]:
    """Weights of 40,000 elements and more, so that one in 10,000 means something."""
    for zoo, dtype, dora, rslora in itertools.product(
        (Zoo, TransposedZoo),
        (torch.float32, torch.bfloat16, torch.float16),
        (False, True),
        (False, True),
    ):
        large = Settings(
            zoo=zoo,
            size=35,
            dtype=dtype,
            dora=dora,
            rslora=rslora,
            patterns=rslora,
            bias="all",
            lora_bias=rslora and not dora,
            saved=True,
            tokens=True,
        )
        yield large
        if dtype != torch.float32:
            yield replace(large, adapter_dtype=dtype)


@pytest.mark.parametrize("settings", list(large_settings()), ids=str)
def test_every_dtype_is_rounded_once(settings: Settings, tmp_path: Path) -> None:
    made = make(settings, tmp_path)
    merged, expected = merge(made), Expected(made)
    check_formula(made, merged, expected)
    if settings.adapter_dtype == torch.float32:  # else PEFT rounds the update to its dtype first
        check_peft(made, merged, expected)
