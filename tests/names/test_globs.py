"""A glob chooses something, or it is an error that says what was probably meant."""

import pytest

from loratools.errors import MatchError
from loratools.names.globs import Selection, matches, no_match

NAMES = tuple(
    f"model.layers.{n}.{module}.weight"
    for n in range(12)
    for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
)


@pytest.mark.parametrize(
    ("glob", "names", "hit"),
    [
        ("*.q_proj.weight", ["a.q_proj.weight"], True),
        ("*.q_proj", ["a.q_proj.weight"], True),
        ("a.q_proj", ["a.q_proj.bias"], True),
        ("b.*", ["a.q_proj.weight", "b.q_proj.weight"], True),
        ("a", ["a.q_proj.weight"], False),
        ("q_proj", ["a.q_proj.weight"], False),
    ],
)
def test_glob_is_matched_with_names_and_modules(glob: str, names: list[str], hit: bool) -> None:
    assert matches(glob, *names) is hit


@pytest.mark.parametrize(
    ("glob", "meant"),
    [
        ("model.layers.0", "model.layers.0.*"),
        ("*.layers.1", "*.layers.1.*"),
        ("model.layers.1.self", "model.layers.1.self*"),
        ("q_proj", "*.q_proj"),
        ("mlp", "*.mlp.*"),
        ("v_pr", "*v_pr*"),
    ],
)
def test_bare_name_is_answered_with_the_glob_that_was_meant(glob: str, meant: str) -> None:
    assert str(no_match(glob, NAMES)) == f"{glob!r} matches no target; did you mean {meant!r}?"
    assert any(matches(meant, name) for name in NAMES)


@pytest.mark.parametrize(
    ("glob", "nearest"),
    [
        ("*.q_porj.*", "model.layers.0.self_attn.q_proj.weight"),
        ("model.layer.3.mlp.up_proj.*", "model.layers.0.mlp.up_proj.weight"),
        ("*mpl.upproj*", "model.layers.0.mlp.up_proj.weight"),
    ],
)
def test_typing_error_is_answered_with_the_nearest_name(glob: str, nearest: str) -> None:
    assert f"nearest: {nearest}" in str(no_match(glob, NAMES))


def test_flattened_names_have_nearest_ones_too() -> None:
    names = ["lora_unet_mid_block_attn1_to_q.weight", "lora_te_text_model_fc1.weight"]
    assert "did you mean 'lora_unet_mid_block*'" in str(no_match("lora_unet_mid_block", names))
    assert "nearest: lora_unet_mid_block_attn1_to_q" in str(no_match("*atn1_to_q*", names))


def test_selection_takes_what_only_hits_and_skip_does_not() -> None:
    selection = Selection(["*.q.*"], ["a.*"])
    assert [selection.takes(n) for n in ("a.q.weight", "b.q.weight", "b.k.weight")] == [
        False,
        True,
        False,
    ]
    assert selection.takes("a.k.weight", "b.q.bias") is False
    selection.check_used()


@pytest.mark.parametrize(("only", "skip"), [(["*.q.*", "x"], []), (["*.q.*"], ["x"])])
def test_every_glob_has_to_match_something(only: list[str], skip: list[str]) -> None:
    selection = Selection(only, skip)
    selection.takes("a.q.weight")
    option = "skip" if skip else "only"
    with pytest.raises(MatchError, match=rf"^{option}=\['x'\] matches .*; nearest: a.q.w"):
        selection.check_used()


def test_what_nothing_changes_may_be_skipped_and_cannot_be_the_only_one() -> None:
    Selection([], ["head"]).check_used(["head.weight"])
    with pytest.raises(MatchError, match=r"only=\['head'\] matches no target"):
        Selection(["head"], []).check_used(["head.weight"])
