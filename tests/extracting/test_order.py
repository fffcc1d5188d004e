"""Two models in the wrong order are noticed where a config says which was made of which."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import loratools
from loratools.extracting.order import order_notes
from loratools.files.opening import open_base
from tests.merged import write_base

NAME = "model.layers.0.mlp.up_proj.weight"


def test_the_order_is_questioned_where_the_base_was_made_of_the_tuned_model(tmp_path: Path) -> None:
    """And it is an adapter all the same: the other one's negative."""
    first = write_base(tmp_path / "first", {NAME: torch.zeros(4, 4)}, {})
    config = {"_name_or_path": str(first)}
    second = write_base(tmp_path / "second", {NAME: torch.eye(4)}, config)
    right = loratools.svd_extract(second, first, rank=1)
    assert not any("was made of" in note for note in right.report.notes)
    wrong = loratools.svd_extract(first, second, rank=1)
    (note,) = [note for note in wrong.report.notes if "was made of" in note]
    assert note.startswith(f"{second}: was made of {first}, as its config.json says")
    assert torch.equal(wrong[NAME].update(), -right[NAME].update())


@pytest.mark.parametrize(
    ("named", "is_noted"),
    [("ann/base", True), ("bob/base", False), ("base", False), ("./base", False), (7, False)],
)
def test_only_a_whole_name_tells(tmp_path: Path, named: object, is_noted: bool) -> None:
    tensors = {NAME: torch.zeros(4, 4)}
    opened = open_base(write_base(tmp_path / "base", tensors, {}))
    on_hub = replace(opened, where="hf://ann/base@main")
    made = open_base(write_base(tmp_path / "made", tensors, {"_name_or_path": named}))
    assert bool([*order_notes(on_hub, made)]) == is_noted
    assert [*order_notes(made, on_hub)] == []


def test_models_that_name_each_other_are_not_told_apart(tmp_path: Path) -> None:
    one, other = (
        open_base(
            write_base(
                tmp_path / name, {NAME: torch.zeros(4, 4)}, {"_name_or_path": str(tmp_path / named)}
            )
        )
        for name, named in (("a", "b"), ("b", "a"))
    )
    assert [*order_notes(one, other), *order_notes(other, one)] == []
