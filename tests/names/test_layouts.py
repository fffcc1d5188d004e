"""A flattened name has the readings that models have for it, and no others."""

import json
import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import loratools.names.layouts
from loratools.names.architectures import architectures
from loratools.names.families import architecture_of
from loratools.names.layouts import namings, readings

LAYOUTS = json.loads((Path(loratools.names.layouts.__file__).parent / "layouts.json").read_text())


def paths(tree: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for word, below in tree.items():
        if word:
            yield from paths(below, f"{before}{word}.")
        else:
            yield before[:-1]


@pytest.mark.parametrize("family", LAYOUTS)
def test_a_flattened_path_of_any_model_is_read_as_that_path(family: str) -> None:
    layout = dict(LAYOUTS[family])
    component = layout.pop("component")
    assert namings(family) == layout.keys()
    for naming, tree in layout.items():
        for form in paths(tree):
            for number in ("0", "17"):
                path = form.replace("#", number)
                found = [
                    reading.path
                    for reading in readings(path.replace(".", "_"))
                    if (reading.family, reading.naming) == (family, naming)
                ]
                assert found == [path]
                assert (path, family, naming, component) in readings(path)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj",
        "layers_0_self_attn_q_proj",
        "double_blocks_0",
        "double_blocks_x_img_attn_qkv",
        "double_blocks_0_img_attn_qkv_1",
        "double.blocks.0.img_attn.qkv",
        "time_embedding.linear.1",
        "",
    ],
)
def test_other_names_have_no_reading(name: str) -> None:
    assert readings(name) == ()


def test_a_number_in_a_word_is_no_other_number() -> None:
    found = {reading.path for reading in readings("time_embedding_linear_2")}
    assert found == {"time_embedding.linear_2"}
    assert readings("time_embedding_linear_3") == ()


def test_a_name_that_two_models_divide_otherwise_has_both_readings() -> None:
    found = {reading.path for reading in readings("double_blocks_5_img_attn_qkv")}
    assert found == {"double_blocks.5.img_attn.qkv", "double_blocks.5.img_attn_qkv"}


def test_the_trees_are_those_of_the_key_lists_and_the_rules() -> None:
    script = Path(__file__).parent.parent.parent / "scripts" / "make_layouts.py"
    assert runpy.run_path(str(script))["layouts"]() == LAYOUTS


def test_every_model_that_makes_images_has_trees_and_rules() -> None:
    families = {family for family, layout in LAYOUTS.items() if "transformers" not in layout}
    found = [architecture_of(family) for family in families]
    assert len({*map(id, found)}) == len(families)
    own = {a.name for a in architectures() if a.component in ("unet", "transformer")}
    assert {architecture.name for architecture in found} == own
