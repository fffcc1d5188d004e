"""Names of bases with overlays: where one part ends and the next begins."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools.files.place import layers_of, name_of


@given(st.text("ab+/:.", max_size=12))
def test_the_parts_of_a_name_are_the_name(name: str) -> None:
    parts = layers_of(name)
    assert "+".join(map(str, parts)) == name
    assert len(parts) == 1 or all(parts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("base", ["base"]),
        ("base+one", ["base", "one"]),
        ("base+a+b", ["base", "a+b"]),
        ("a+b+base", ["a+b", "base"]),
        ("a+b", ["a+b"]),
        ("a+b+a+b", ["a+b", "a+b"]),
        ("none+one", ["none", "one"]),
        ("base+none+one", ["base", "none", "one"]),
        ("base+", ["base+"]),
        ("+base", ["+base"]),
        ("base++one", ["base++one"]),
        ("hf://ann/base@v1+one", ["hf://ann/base@v1", "one"]),
        ("hf:/ann/base+hf:/ann/one", ["hf:/ann/base", "hf:/ann/one"]),
        ("base+hf://ann/one@v1%2B2", ["base", "hf://ann/one@v1%2B2"]),
    ],
)
def test_a_part_is_the_longest_path_that_exists(
    name: str, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("base", "one", "a+b"):
        (tmp_path / folder).mkdir()
    assert list(layers_of(name)) == parts


def test_a_dangling_link_with_a_plus_in_its_name_is_one_name(tmp_path: Path) -> None:
    link = tmp_path / "a+b"
    link.symlink_to(tmp_path / "gone")
    assert layers_of(link) == (link,)


def test_names_for_others_have_no_folder_of_this_machine() -> None:
    assert name_of("/models/secret/model/") == "model"
    assert name_of(".") == Path.cwd().name
    assert name_of(f"hf://ann/base{os.sep}") == f"hf://ann/base{os.sep}"
