"""Two models are compared if one can have been trained from the other."""

from pathlib import Path

import pytest
import torch

import loratools
from loratools import MatchError
from tests.e2e.commands import SINGLE
from tests.merged import write_base

BLOCK = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize("is_tuned", [True, False])
def test_models_of_other_kinds_are_told_apart_by_what_each_looks_like(
    tmp_path: Path, is_tuned: bool
) -> None:
    image = write_base(tmp_path / "image", {f"{BLOCK}.weight": torch.ones(4, 4)})
    tuned, base = (image, SINGLE) if is_tuned else (SINGLE, image)
    with pytest.raises(MatchError, match="another kind of model: by its names") as caught:
        loratools.svd_extract(tuned, base, dry_run=True)
    message = str(caught.value)
    assert f"({BLOCK}) {'it ' if is_tuned else ''}is an image model" in message
    assert "is a language model" in message
    assert caught.value.file == str(tuned)


def test_models_without_a_tensor_in_common_are_other_models(fixtures: Path) -> None:
    with pytest.raises(MatchError, match=r"another model: none of its tensors \(transformer\.h\.0"):
        loratools.svd_extract(fixtures / "tiny-gpt2", SINGLE, dry_run=True)


def test_a_tensor_that_one_model_alone_has_does_not_make_it_another(tmp_path: Path) -> None:
    common = {"model.layers.0.mlp.up_proj.weight": torch.ones(4, 4)}
    base = write_base(tmp_path / "base", common)
    new = {"model.layers.1.mlp.up_proj.weight": torch.ones(4, 4)}
    tuned = write_base(tmp_path / "tuned", common | new)
    with pytest.raises(MatchError, match=r"layers\.1.*: the base has no such tensor; skip it"):
        loratools.svd_extract(tuned, base, dry_run=True)
