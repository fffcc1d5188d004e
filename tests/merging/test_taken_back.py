"""A merge that takes an update out of rounded numbers says how many are not what they were."""

from dataclasses import asdict
from math import prod, sqrt
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import loratools
from loratools.io.rounding import numbers_at, ordinals
from loratools.merging.originals import count_originals, has_one_original
from loratools.merging.taken_back import TakenBack
from tests import reference
from tests.merged import merged, write_adapter, write_base
from tests.narrowing import present

ROUNDED = [torch.bfloat16, torch.float16, torch.float32]


def every(dtype: torch.dtype) -> Tensor:
    """All finite numbers of a dtype of 16 bits, in rising order."""
    bits = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    return bits[bits.isfinite()].sort().values


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def factors(*modules: str, size: float, seed: int = 1) -> dict[str, Tensor]:
    return {
        f"{module}.{name}.weight": size * normal(*shape, seed=seed + number)
        for number, module in enumerate(modules)
        for name, shape in (("lora_A", (2, 40)), ("lora_B", (60, 2)))
    }


@pytest.mark.parametrize("dtype", [*ROUNDED, torch.float64])
def test_ordinals_follow_the_order_of_the_numbers(dtype: torch.dtype) -> None:
    least = reference.smallest(dtype)
    rising = torch.tensor([-torch.inf, -1, -least, 0, least, 2 * least, 1, torch.inf], dtype=dtype)
    order = ordinals(rising)
    assert order.diff().min() > 0
    assert order.tolist()[2:6] == [-1, 0, 1, 2]
    assert ordinals(-torch.zeros(1, dtype=dtype)) == 0
    assert torch.equal(numbers_at(order, dtype), rising)
    one_more = numbers_at(order[-2:-1] + 1, dtype).double()
    assert one_more == 1 + 2 * reference.unit(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-6, 0.01, 1.0])
def test_originals_are_those_that_round_to_the_merged_number(
    dtype: torch.dtype, size: float
) -> None:
    numbers = every(dtype)
    near_zero = numbers_at(torch.arange(-5, 5), dtype)
    weight = torch.cat([(0.02 * normal(20, seed=0)).to(dtype), near_zero])
    update = (size * normal(len(weight), seed=1)).to(dtype).double()  # exact in a sum, if not tiny
    number = reference.rounded(weight.double() + update, dtype)
    counts = count_originals(number.double()[:, None], -update[:, None], dtype)[:, 0]
    for merged_number, change, count in zip(number, update, counts, strict=True):
        nearest = reference.rounded(numbers.double() + change, dtype) == merged_number
        # A tie may be rounded away from it, at either end; and zero is stored in two ways.
        assert 0 <= int(count) + 1 - int(nearest.sum()) <= 3


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("size", [0.1, 0.5])
@pytest.mark.parametrize("weights", [[1.0], [0.7], [0.6, 0.3]])
def test_a_merge_taken_back_says_how_many_elements_differ(
    dtype: torch.dtype, size: float, weights: list[float], tmp_path: Path
) -> None:
    names = ["m.a", "m.b", "m.c"]
    base = {f"{name}.weight": normal(60, 40, seed=n).to(dtype) for n, name in enumerate(names)}
    write_base(tmp_path / "base", base)
    adapters = [
        write_adapter(tmp_path / f"adapter{n}", factors("m.a", "m.b", size=size, seed=5 * n))
        for n in range(len(weights))
    ]
    _, put = merged(tmp_path / "base", *adapters, weights=weights)
    assert not any("negative" in note for note in put.notes)
    back, report = merged(
        tmp_path / "merged",
        *adapters,
        weights=[-weight for weight in weights],
        output=tmp_path / "back",
    )
    (found,) = report.taken_back.values()
    differs = sum(int((back[name] != weight).sum()) for name, weight in base.items())
    assert torch.equal(back["m.c.weight"], base["m.c.weight"])
    assert (found.elements, found.foreign) == (2 * 60 * 40, 0)
    assert 0 < differs <= found.most < found.elements
    # Five standard deviations of a sum of so many independent choices.
    assert found.expected is not None
    assert abs(differs - found.expected) < 5 * sqrt(found.expected)
    (note,) = report.notes
    assert f"about {found.expected:.0f}, and at most {found.most}, are not what they" in note


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("size", [1e-40, 1e-5, 0.3, 40.0])
def test_what_surely_has_one_original_has_one(dtype: torch.dtype, size: float) -> None:
    special = [0.0, -0.0, 1.0, -2.0, torch.finfo(dtype).tiny, torch.finfo(dtype).max]
    special += [reference.smallest(dtype), 3 * reference.smallest(dtype)]
    weight = torch.cat([normal(20_000, seed=0), torch.tensor(special).repeat(50)]).to(dtype)
    update = size * normal(len(weight), seed=1).double()
    number = (weight.double() + update).to(dtype).double()
    number[-100:] = weight[-100:]  # not merged
    found = has_one_original(number, -update, dtype)
    counts = count_originals(number, -update, dtype)
    assert (counts[found] == 1).all()
    assert size > 1e-5 or found.float().mean() > 0.9  # it is there to save time


@pytest.mark.parametrize("dtype", ROUNDED)
def test_an_element_with_one_original_is_what_it_was(dtype: torch.dtype) -> None:
    weight = normal(100, 50, seed=0).to(dtype)
    update = 0.3 * normal(100, 50, seed=1).double()
    number = reference.rounded(weight.double() + update, dtype).double()
    counts = count_originals(number, -update, dtype)
    back = reference.rounded(number - update, dtype)
    assert 0 < (counts == 1).sum() < counts.numel()
    assert torch.equal(back[counts == 1], weight[counts == 1])


def test_errors_of_a_merge_in_float32_make_no_numbers_foreign() -> None:
    weight = (0.02 * normal(2000, 500, seed=0)).bfloat16()
    update = 0.02 * normal(2000, 500, seed=1)
    number = (weight.float() + update * (1 + 2.0**-23)).bfloat16()
    counts = count_originals(number.float(), -update, torch.bfloat16)
    back = (number.float() - update).bfloat16()
    assert counts.min() == 1
    assert torch.equal(back[counts == 1], weight[counts == 1])


def test_numbers_that_no_merge_of_the_update_has_made_are_counted(tmp_path: Path) -> None:
    weight = normal(60, 40, seed=0).to(torch.bfloat16)
    write_base(tmp_path / "base", {"m.a.weight": weight, "m.b.weight": weight.clone()})
    write_adapter(tmp_path / "adapter", factors("m.a", "m.b", size=0.5))
    _, report = merged(tmp_path / "base", tmp_path / "adapter", weights=[-1])
    found = report.taken_back["bfloat16"]
    parts = [present(fidelity.taken_back).foreign for fidelity in report.fidelity.values()]
    assert len(parts) == 2
    assert 0 < min(parts) < max(parts) < 60 * 40
    assert found.foreign == sum(parts)
    assert (
        f"{found.foreign} of them cannot come from a merge of this update alone into bfloat16"
        in report.notes[0]
    )


def test_what_is_added_beside_does_not_change_the_counts(tmp_path: Path) -> None:
    write_base(tmp_path / "base", {"m.a.weight": normal(60, 40, seed=0).to(torch.bfloat16)})
    one = write_adapter(tmp_path / "one", factors("m.a", size=0.3))
    other = write_adapter(tmp_path / "other", factors("m.a", size=0.3, seed=7))
    merged(tmp_path / "base", one)
    base = tmp_path / "merged"
    _, alone = merged(base, one, weights=[-1], output=tmp_path / "alone")
    _, beside = merged(base, other, one, weights=[1, -1], output=tmp_path / "beside")
    assert beside.taken_back == alone.taken_back != {}


def test_an_update_too_small_to_matter_gives_every_element_back(tmp_path: Path) -> None:
    base = {"m.a.weight": normal(60, 40, seed=0).to(torch.bfloat16)}
    write_base(tmp_path / "base", base)
    write_adapter(tmp_path / "adapter", factors("m.a", size=1e-12))
    merged(tmp_path / "base", tmp_path / "adapter")
    back, report = merged(
        tmp_path / "merged", tmp_path / "adapter", weights=[-1], output=tmp_path / "back"
    )
    assert torch.equal(back["m.a.weight"], base["m.a.weight"])
    assert report.taken_back["bfloat16"].most == 0
    assert "all are what they were before it" in report.notes[0]


@pytest.mark.parametrize("how", ["planned", "stochastic", "converted"])
def test_elements_that_are_not_counted_may_all_differ(how: str, tmp_path: Path) -> None:
    shapes = [(60, 40), (60, 40)]
    base = {f"m.{n}.weight": normal(*s, seed=0).half() for n, s in zip("ab", shapes, strict=True)}
    write_base(tmp_path / "base", base)
    write_adapter(tmp_path / "adapter", factors("m.a", "m.b", size=0.1))
    report = loratools.merge(
        tmp_path / "base",
        [(tmp_path / "adapter", -1)],
        output=None if how == "planned" else tmp_path / "out",
        dtype="float32" if how == "converted" else None,
        write=loratools.WriteOptions(seed=0 if how == "stochastic" else None),
    )
    size = sum(map(prod, shapes))
    assert report.taken_back == {"float16": TakenBack(size, size, None, 0)}
    (note,) = report.notes
    assert f"{size} elements in float16; where a merge had rounded them, up to all of" in note


def test_rows_that_the_update_is_not_in_are_not_counted(tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    qkv = "model.diffusion_model.double_blocks.0.img_attn.qkv.weight"
    save_file({qkv: normal(180, 40, seed=0).half()}, base)
    q, k = (
        write_adapter(tmp_path / part, factors(f"transformer_blocks.0.attn.to_{part}", size=0.1))
        for part in "qk"
    )
    plan = loratools.merge(base, [(q, 1), (k, -1)])
    _, report = merged(base, q, k, weights=[1, -1], output=tmp_path / "out.safetensors")
    for found in (plan, report):
        assert found.taken_back["float16"].elements == 60 * 40


@pytest.mark.parametrize(("stored", "written"), [(torch.float64, None), (torch.float32, "float16")])
def test_numbers_of_64_bits_and_narrowed_ones_get_no_note(
    stored: torch.dtype, written: str | None, tmp_path: Path
) -> None:
    write_base(tmp_path / "base", {"m.a.weight": normal(60, 40, seed=0).to(stored)})
    write_adapter(tmp_path / "adapter", factors("m.a", size=0.1))
    _, report = merged(tmp_path / "base", tmp_path / "adapter", weights=[-1], dtype=written)
    assert report.notes == ()
    assert report.taken_back == {}


def test_the_counts_are_in_the_json(tmp_path: Path) -> None:
    write_base(tmp_path / "base", {"m.a.weight": normal(60, 40, seed=0).half()})
    write_adapter(tmp_path / "adapter", factors("m.a", size=0.1))
    _, report = merged(tmp_path / "base", tmp_path / "adapter", weights=[-1])
    counts = asdict(report.taken_back["float16"])
    assert report.to_json()["taken_back"] == [{"dtype": "float16", **counts}]
