"""Pipelines that diffusers saves, merged on disk: what diffusers makes of them in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.oracles import WARNED, oracle

oracle("peft")
oracle("diffusers")

from diffusers.utils import logging  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

import loratools  # noqa: E402
from loratools.merging.execute import WriteOptions  # noqa: E402
from tests.adapters import effects  # noqa: E402
from tests.narrowing import present  # noqa: E402
from tests.oracle._pipelines import PIPELINES, components, pipeline, weights  # noqa: E402
from tests.oracle.test_diffusers import (  # noqa: E402
    assert_equal,
    fused,
    kohyas,
    save,
    trained,
)
from tests.pipelines import contents  # noqa: E402

UNMATCHED = pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")
pytestmark = [pytest.mark.oracle, *WARNED, UNMATCHED]

#: How diffusers saves a pipeline: whole, in parts, as a variant, and as a variant in parts.
LAYOUTS: tuple[dict[str, Any], ...] = (
    {},
    {"max_shard_size": "20KB"},
    {"variant": "fp16"},
    {"variant": "fp16", "max_shard_size": "20KB"},
)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def loaded(name: str, folder: Path, **options: Any) -> dict[str, Tensor]:
    """The weights of a pipeline that diffusers reads from a folder."""
    made = pipeline(name)
    without = {part: None for part, model in made.components.items() if model is None}
    return weights(type(made).from_pretrained(folder, **without, **options))


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "-".join(layout) or "whole")
def test_a_merged_pipeline_is_what_diffusers_fuses(
    name: str, layout: dict[str, Any], tmp_path: Path
) -> None:
    pipeline(name).save_pretrained(tmp_path / "base", **layout)
    adapter = save(trained(name), tmp_path / "adapter", metadata=True)
    loratools.merge(tmp_path / "base", adapter, output=tmp_path / "out")
    variant = {key: value for key, value in layout.items() if key == "variant"}
    assert_equal(loaded(name, tmp_path / "out", **variant), fused(name, adapter))
    assert contents(tmp_path / "base").keys() == contents(tmp_path / "out").keys()


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_diffusers_reads_a_pipeline_that_was_split_anew(
    variant: str | None, tmp_path: Path
) -> None:
    pipeline("SDXL").save_pretrained(tmp_path / "base", variant=variant)
    adapter = save(trained("SDXL"), tmp_path / "adapter", metadata=True)
    write = WriteOptions(max_shard_bytes=20_000)
    report = loratools.merge(tmp_path / "base", adapter, output=tmp_path / "out", write=write)
    assert len(report.files) > 6
    assert_equal(loaded("SDXL", tmp_path / "out", variant=variant), fused("SDXL", adapter))


def test_the_sum_in_sixteen_bits_is_rounded_once(tmp_path: Path) -> None:
    made = pipeline("SD1").to(torch.float16)
    random = torch.Generator().manual_seed(1)
    for model in components(made).values():
        for parameter in model.parameters():
            parameter.data += torch.rand(parameter.shape, generator=random)
    made.save_pretrained(tmp_path / "base")
    adapter = save(trained("SD1"), tmp_path / "adapter", metadata=True)
    loratools.merge(tmp_path / "base", adapter, output=tmp_path / "out")
    merged = loaded("SD1", tmp_path / "out", dtype=torch.float16)
    changes = effects(loratools.open_adapter(adapter))
    for target, weight in weights(made).items():
        change = changes.get(target, torch.zeros(weight.shape)).reshape(weight.shape)
        assert torch.equal(merged[target], (weight.double() + change).half())


@pytest.mark.parametrize("name", PIPELINES)
def test_diffusers_loads_what_is_extracted_from_two_pipelines(name: str, tmp_path: Path) -> None:
    pipeline(name).save_pretrained(tmp_path / "base")
    adapter = save(trained(name), tmp_path / "adapter", metadata=True)
    loratools.merge(tmp_path / "base", adapter, output=tmp_path / "tuned")
    out = tmp_path / "extracted"
    report = loratools.svd_extract(tmp_path / "tuned", tmp_path / "base", output=out, check=True)
    check = present(report.check)
    assert check.agrees
    found, wanted = fused(name, out), fused(name, adapter)
    for target, weight in wanted.items():
        # No number is further from the tuned one than all numbers are together.
        atol = check.distance + check.rounding
        torch.testing.assert_close(found[target], weight, rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["SD1", "SDXL"])
def test_a_kohya_file_is_merged_into_all_components_that_it_is_for(
    name: str, tmp_path: Path
) -> None:
    pipeline(name).save_pretrained(tmp_path / "base")
    save_file(kohyas(name, [2.0]), tmp_path / "kohya.safetensors")
    loratools.merge(tmp_path / "base", tmp_path / "kohya.safetensors", output=tmp_path / "out")
    assert_equal(loaded(name, tmp_path / "out"), fused(name, tmp_path / "kohya.safetensors"))
