"""Names without the wrappers that a running program puts around modules."""

import pytest

from loratools.errors import FormatError
from loratools.names.wrappers import plain_names, unwrapped, unwrapped_pattern

WRAPPERS = (
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_original_module",
    "_orig_module",
)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("{}.model.q.weight", "model.q.weight"),
        ("model.{}.layers.0.{}.q.weight", "model.layers.0.q.weight"),
        ("model.q.{}.weight", "model.q.weight"),
        ("lora_unet_{}_mid_{}_q.alpha", "lora_unet_mid_q.alpha"),
        ("lora_te_mid_q_{}.lora_down.weight", "lora_te_mid_q.lora_down.weight"),
        ("{}.{}.q", "q"),
        ("model.my{}.q", "model.my{}.q"),
        ("model.module.q", "model.module.q"),
    ],
)
def test_wrappers_are_left_out_wherever_they_stand(wrapper: str, name: str, plain: str) -> None:
    assert unwrapped(name.replace("{}", wrapper)) == plain.replace("{}", wrapper)


@pytest.mark.parametrize(
    ("pattern", "plain"),
    [
        ("q_proj", "q_proj"),
        ("_orig_mod.layers.0.q", "layers.0.q"),
        (r"^_orig_mod\.layers\.0\.q", r"^layers\.0\.q"),
        (r"(.*\.)?_orig_mod\.layers\.\d+\.(q|_orig_mod\.k)", r"(.*\.)?layers\.\d+\.(q|k)"),
        (r".*_orig_mod.*q", r".*.*q"),
        (r".*\.q\._orig_mod", r".*\.q"),
        (r".*\.(q\._orig_mod|k)", r".*\.(q|k)"),
        ("my_orig_mod.q", "my_orig_mod.q"),
    ],
)
def test_patterns_follow_the_names_that_they_match(pattern: str, plain: str) -> None:
    assert unwrapped_pattern(pattern) == plain


def test_module_is_a_wrapper_where_every_name_begins_with_it() -> None:
    assert [*plain_names(["_orig_mod.module.module.q"], "here").values()] == ["q"]
    assert [*plain_names(["module.a", "module._orig_mod.b.module.c"], "here").values()] == [
        "a",
        "b.module.c",
    ]
    assert [*plain_names(["module.a", "b"], "here").values()] == ["module.a", "b"]
    assert [*plain_names([], "here")] == []


def test_two_names_that_become_one_are_both_named() -> None:
    with pytest.raises(FormatError, match=r"here: a\.q and a\._orig_mod\.q are both a\.q, without"):
        plain_names(["a.q", "a._orig_mod.q"], "here")
