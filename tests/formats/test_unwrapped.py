"""Adapters saved through wrappers: every dialect has one name for each module."""

from typing import Any

import pytest
import torch

from loratools.errors import FormatError
from loratools.formats import decode, encode
from loratools.io.bundle import Bundle
from loratools.io.source import Held
from tests.adapters import lora_of
from tests.formats.bundles import PREFIX, decoded, lora, notes
from tests.narrowing import present

KEYS = [PREFIX + "layers.0.q.lora_A.weight", PREFIX + "layers.0.q.lora_B.weight"]


def renamed(old: str, new: str) -> dict[str, tuple[int, ...]]:
    return {key.replace(old, new): shape for key, shape in lora("layers.0.q").items()}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (PREFIX, "_orig_mod." + PREFIX),
        (PREFIX, "module." + PREFIX),
        (PREFIX, PREFIX + "module."),
        (PREFIX, PREFIX + "_orig_mod.module."),
        (PREFIX, "base_model._orig_mod.model."),
        (PREFIX, "base_model.module.model.module."),
        (PREFIX, PREFIX + "module." + PREFIX),
        ("layers.0.", "layers.0._checkpoint_wrapped_module."),
        (".q.", ".q._orig_mod."),
        (PREFIX + "layers.", "module._fsdp_wrapped_module.layers._fpw_module."),
    ],
)
def test_wrappers_are_removed_for_good_and_told(old: str, new: str) -> None:
    adapter = decoded(renamed(old, new), target_modules=["q"])
    assert list(adapter.updates) == ["layers.0.q.weight"]
    assert list(encode(adapter).tensors) == KEYS
    first = next(iter(renamed(old, new)))
    assert notes(adapter, "info")[0].startswith("2 names are read without the wrappers of a")
    assert f"({first} is " in notes(adapter, "info")[0]
    assert not notes(adapter, "problem")


def test_module_is_a_submodule_where_only_some_names_have_it() -> None:
    """A wrapper holds all of a model, so `module` is part of this model's own names."""
    shapes = renamed("layers", "module.layers") | lora("encoder.module.k")
    adapter = decoded(shapes)
    assert list(adapter.updates) == ["module.layers.0.q.weight", "encoder.module.k.weight"]
    assert list(encode(adapter).tensors) == list(shapes)
    assert adapter.notes == ()


@pytest.mark.parametrize("path", ["module", "module.module"])
def test_a_module_that_is_called_module_keeps_its_name(path: str) -> None:
    """Alone in a model, and in a wrapper; what is left must be the name of a module."""
    adapter = decoded(lora(path) | {PREFIX + path + ".bias": (4,)}, bias="lora_only")
    assert (list(adapter.updates), list(adapter.replaced)) == (["module.weight"], ["module.bias"])


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module."])
def test_two_keys_of_one_tensor_are_both_named(wrapper: str) -> None:
    wrapped = renamed("layers", wrapper + "layers")
    message = f"layers.0.q.lora_A.weight and .*{wrapper}layers.0.q.lora_A.weight (are both|may be)"
    with pytest.raises(FormatError, match=message):
        decoded(lora("layers.0.q") | wrapped)


@pytest.mark.parametrize(
    ("field", "stored", "plain"),
    [
        ("target_modules", ["_orig_mod.layers.0.q"], ["layers.0.q"]),
        ("target_modules", ["q", "_orig_mod"], ["q"]),
        ("target_modules", r".*_orig_mod\.layers\..*q", r".*layers\..*q"),
        ("exclude_modules", ["layers._orig_mod.1.q"], ["layers.1.q"]),
        ("modules_to_save", ["head._orig_mod"], ["head"]),
        ("rank_pattern", {"_orig_mod.layers.0.q": 2, "layers.0.q": 8}, {"layers.0.q": 2}),
        ("alpha_pattern", {r"^_orig_mod\.layers": 8}, {r"^layers": 8}),
    ],
)
def test_names_and_patterns_of_the_config_follow(field: str, stored: Any, plain: Any) -> None:
    adapter = decoded(renamed("layers", "_orig_mod.layers"), **{field: stored})
    assert present(present(adapter.filed).config)[field] == plain


def test_names_of_the_config_follow_where_the_model_was_wrapped_whole() -> None:
    stored: dict[str, Any] = {
        "target_modules": ["module.layers.0.q"],
        "alpha_pattern": {r"^module\.layers\.0\.q": 8, "other.module.q": 2},
    }
    adapter = decoded(renamed("layers", "module.layers"), **stored)
    config = present(present(adapter.filed).config)
    assert config["target_modules"] == ["layers.0.q"]
    assert list(config["alpha_pattern"]) == [r"^layers\.0\.q", "other.module.q"]
    assert lora_of(adapter.updates["layers.0.q.weight"]).scaling.alpha == 8


def test_config_alone_may_have_wrappers() -> None:
    adapter = decoded(lora("layers.0.q"), target_modules=["_orig_mod.layers.0.q"])
    assert notes(adapter, "info") == [
        "names in the config are read without the wrappers of a running program"
    ]
    assert not notes(adapter, "problem")


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet__orig_mod_mid_q",
        "lora_unet_mid__checkpoint_wrapped_module_q",
        "lora_unet_mid_q__orig_mod",
        "lora_unet_module_mid_q",
        "module.lora_unet_mid_q",
        "_orig_mod.lora_unet_module__orig_mod_mid_q",
        "lora_unet_mid_q._orig_mod",
    ],
)
def test_flattened_names_have_no_wrappers_either(name: str) -> None:
    shapes = {f"{name}.lora_down.weight": (2, 3), f"{name}.lora_up.weight": (4, 2)}
    tensors = {key: Held(key, torch.ones(shape), "F32") for key, shape in shapes.items()}
    adapter = decode(Bundle("here", tensors, {}, None, (), 0))
    assert present(adapter.filed).dialect == "kohya"
    assert list(adapter.updates) == ["lora_unet_mid_q.weight"]
    assert [key.partition(".")[0] for key in encode(adapter).tensors] == ["lora_unet_mid_q"] * 2
    assert adapter.notes[0].message.startswith("2 names are read without")


def test_part_of_a_flattened_model_may_be_wrapped_alone() -> None:
    names = ["lora_unet_module_mid_q", "lora_te_text_q", "lora_te_module_k"]
    shapes = {
        f"{n}.{p}.weight": s for n in names for p, s in (("lora_down", (2, 3)), ("lora_up", (4, 2)))
    }
    tensors = {key: Held(key, torch.ones(shape), "F32") for key, shape in shapes.items()}
    adapter = decode(Bundle("here", tensors, {}, None, (), 0))
    assert list(adapter.updates) == [
        "lora_unet_mid_q.weight",
        "lora_te_text_q.weight",
        "lora_te_module_k.weight",
    ]
