"""Which part of an adapter each of PEFT's keys is, in every form in which it has been found."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loratools.errors import FormatError, UnsupportedError
from loratools.formats._peft.codecs import codecs_of
from loratools.formats._peft.keys import Parts, _Sorter
from loratools.io.source import Held
from tests.formats.bundles import PREFIX, decoded, lora, notes

PAIR = lora("layer.q")


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("lora_A.weight", "lora_B.weight"),
        ("lora_A", "lora_B"),
        ("lora_A.default.weight", "lora_B.default.weight"),
        ("lora_A.my-adapter.weight", "lora_B.my-adapter.weight"),
        ("lora_A.default", "lora_B.default"),
    ],
)
@pytest.mark.parametrize("prefix", ["", PREFIX, PREFIX * 2])
def test_every_form_of_a_pair_is_the_same_update(prefix: str, down: str, up: str) -> None:
    adapter = decoded({f"{prefix}layer.q.{down}": (2, 3), f"{prefix}layer.q.{up}": (4, 2)})
    assert {name: update.delta.shape for name, update in adapter.updates.items()} == {
        "layer.q.weight": (4, 3)
    }
    assert not adapter.replaced
    assert not adapter.inert


def test_unusual_prefixes_are_noted() -> None:
    without = decoded({"q.lora_A.weight": (2, 3), "q.lora_B.weight": (4, 2)})
    assert notes(without, "info") == [f"keys lack the prefix {PREFIX}: q.lora_A.weight"]
    twice = decoded({PREFIX + key: shape for key, shape in PAIR.items()})
    assert notes(twice, "info") == [f"keys repeat the prefix {PREFIX}: it was wrapped twice"]
    assert decoded(PAIR).notes == ()


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("lora_embedding_A", "lora_embedding_B"),
        ("lora_embedding_A.default", "lora_embedding_B.default"),
    ],
)
def test_embedding_pair_is_the_update_of_its_transpose(down: str, up: str) -> None:
    """(B @ A).T of A (2, vocabulary 7) and B (width 3, 2) has the shape (7, 3)."""
    adapter = decoded({f"{PREFIX}tok.{down}": (2, 7), f"{PREFIX}tok.{up}": (3, 2)})
    update = adapter.updates["tok.weight"]
    assert (update.delta.shape, update.fan_in_fan_out) == ((7, 3), None)


@pytest.mark.parametrize(
    "key",
    [
        "head.weight",
        "head.modules_to_save.weight",
        "head.modules_to_save.default.weight",
    ],
)
def test_trained_module_replaces_the_bases_in_every_form(key: str) -> None:
    adapter = decoded({**PAIR, PREFIX + key: (5, 3)}, modules_to_save=["head"])
    assert list(adapter.replaced) == ["head.weight"]
    assert adapter.replaced["head.weight"].is_trained
    assert adapter.replaced["head.weight"].source.shape == (5, 3)


@pytest.mark.parametrize(
    ("name", "task", "is_trained"),
    [
        ("classifier.weight", "SEQ_CLS", True),
        ("pre_classifier.bias", "SEQ_CLS", True),
        ("classifier.out_proj.weight", "TOKEN_CLS", True),
        ("model.score.weight", "SEQ_CLS", True),
        ("qa_outputs.weight", "QUESTION_ANS", True),
        ("score.weight", None, True),
        ("qa_outputs.bias", "CAUSAL_LM", True),
        ("layers.0.router.classifier.weight", None, False),
        ("lm_head.weight", "CAUSAL_LM", False),
        ("lm_head.weight", "SEQ_CLS", False),
    ],
)
def test_head_is_trained_though_no_list_names_it(
    name: str, task: str | None, is_trained: bool
) -> None:
    """PEFT adds heads to its list by the task; those of 2023 and 2024 saved it without them."""
    adapter = decoded({**PAIR, PREFIX + name: (5, 3)}, modules_to_save=None, task_type=task)
    assert adapter.replaced[name].is_trained == is_trained


def test_module_of_several_layers_may_have_its_wrapper_in_its_keys() -> None:
    shapes = {**PAIR, f"{PREFIX}classifier.modules_to_save.default.dense.weight": (5, 3)}
    assert decoded(shapes).replaced["classifier.dense.weight"].is_trained


def test_trained_module_may_be_stored_twice_and_beside_its_original() -> None:
    """What PEFT 0.21 writes for a resized vocabulary: three tensors for one."""
    keys = ("head.weight", "head.modules_to_save.weight", "head.original_module.weight")
    adapter = decoded({**PAIR, **{PREFIX + key: (5, 3) for key in keys}}, modules_to_save=["head"])
    assert list(adapter.replaced) == ["head.weight"]
    assert [(copy.source.keys, copy.of.keys) for copy in adapter.copies] == [
        ((PREFIX + keys[1],), (PREFIX + keys[0],))
    ]
    assert adapter.inert == {PREFIX + keys[2]: "the base's own weights, as they were"}


@pytest.mark.parametrize("wrapper", ["base_layer", "token_adapter.base_layer"])
def test_weight_inside_a_wrapper_is_the_bases_own(wrapper: str) -> None:
    adapter = decoded({**PAIR, f"{PREFIX}tok.{wrapper}.weight": (7, 3)})
    assert not adapter.replaced["tok.weight"].is_trained


@pytest.mark.parametrize("trained", ["tok.weight", "tok.modules_to_save.weight"])
def test_weight_inside_a_wrapper_gives_way_to_the_trained_one(trained: str) -> None:
    wrapped = f"{PREFIX}tok.base_layer.weight"
    shapes = {**PAIR, wrapped: (7, 3), PREFIX + trained: (7, 3)}
    adapter = decoded(shapes, modules_to_save=["tok"])
    assert adapter.replaced["tok.weight"].source.keys == (PREFIX + trained,)
    assert adapter.replaced["tok.weight"].is_trained
    assert adapter.inert == {wrapped: "the base's own, stored trained too"}


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_bias_inside_a_wrapper_is_trained_where_biases_are(bias: str) -> None:
    shapes = {**PAIR, f"{PREFIX}layer.q.base_layer.bias": (4,)}
    assert decoded(shapes, bias=bias).replaced["layer.q.bias"].is_trained
    assert not decoded(shapes).replaced["layer.q.bias"].is_trained


@pytest.mark.parametrize(
    "key",
    [
        "token_adapter.trainable_tokens_delta",
        "token_adapter.trainable_tokens_delta.default",
        "trainable_tokens_delta",
    ],
)
@pytest.mark.parametrize("indices", [[5, 0], {"tok": [5, 0]}, {"model.tok": [5, 0]}], ids=str)
def test_trained_tokens_are_rows_of_their_embedding(key: str, indices: object) -> None:
    adapter = decoded({f"{PREFIX}model.tok.{key}": (2, 3)}, trainable_token_indices=indices)
    assert adapter.rows["model.tok.weight"].indices == (5, 0)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (None, "does not say which rows"),
        ({"other": [1, 2]}, "does not say which rows"),
        ({"tok": [1, 2], "model.tok": [3, 4]}, "does not say which rows"),
        ([1, -2], "does not say which rows"),
        ([1, True], "does not say which rows"),
        ([1.0, 2.0], "does not say which rows"),
        ([1, 1], "trainable_token_indices has a row of model.tok twice"),
        ([1], r"has 1 index for model.tok, whose trained rows are \[2, 3\]"),
    ],
    ids=str,
)
def test_trained_tokens_without_their_indices_are_refused(indices: object, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        decoded(
            {f"{PREFIX}model.tok.trainable_tokens_delta": (2, 3)}, trainable_token_indices=indices
        )


@pytest.mark.parametrize(
    "key",
    ["lora_monteclora_sampler.default.mu", "lora_velora_embed.default", "lora_velora_embed"],
)
def test_parts_that_only_training_uses_are_inert(key: str) -> None:
    adapter = decoded({**PAIR, f"{PREFIX}layer.q.{key}": (3,)})
    assert adapter.inert == {f"{PREFIX}layer.q.{key}": "used in training only"}


@pytest.mark.parametrize(
    "key",
    ["layer.q.lora_E", "layer.q.lora_C.weight", "layer.q.lora_A.weight.extra.more", "lora_x"],
)
def test_unknown_lora_part_is_refused_and_named(key: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{key}: not a part of LoRA that is known here"):
        decoded({**PAIR, PREFIX + key: (2, 2)})


#: One of each name that a part of an update has in some dialect.
PARTS = (
    "alpha", "lora_down.weight", "lora_up.weight", "lora_mid.weight", "lora_a", "lora_b",
    "lora.down.weight", "to_q_lora.up.weight", "hada_w1_a", "hada_t2", "lokr_w1", "lokr_w2_b",
    "oft_R", "oft_blocks", "oft_diag", "boft_R", "boft_s", "dora_scale", "magnitude", "diff",
    "diff_b", "w_norm", "on_input", "rescale", "scalar", "a1.weight", "bias_indices", "ia3_l",
    "vera_lambda_b", "vera_lambda_d", "fourierft_spectrum", "hra_u", "c3a_kernel", "road_theta",
    "randlora_lambda", "vblora_logits_A", "_flat_param",
)  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("module", ["layer.q", "other"])
def test_part_of_another_dialect_never_passes_as_a_whole_tensor(module: str, part: str) -> None:
    with pytest.raises(UnsupportedError, match=f"here: {PREFIX}{module}.{part}: "):
        decoded({**PAIR, f"{PREFIX}{module}.{part}": (2, 2)})


@pytest.mark.parametrize("part", ["scale", "scaling", "rank", "ranknum", "LORA_A", "weight_scale"])
def test_an_updated_module_has_a_weight_and_biases_and_nothing_else(part: str) -> None:
    """Whatever a part is called in dialects that nobody here knows."""
    with pytest.raises(UnsupportedError, match=f"here: {PREFIX}layer.q.{part}: neither a weight"):
        decoded({**PAIR, f"{PREFIX}layer.q.{part}": (2,)})
    names = ["layer.q.weight", "layer.q.bias", "layer.q.in_proj_bias", f"layer.k.{part}"]
    assert list(decoded(PAIR | {PREFIX + name: (2,) for name in names}).replaced) == names


@pytest.mark.parametrize("part", ["hada_w1_a.default", "ia3_l.default", "lora_down.default.weight"])
def test_part_with_the_name_of_an_adapter_is_one_too(part: str) -> None:
    for saved in ("", "modules_to_save."):
        with pytest.raises(UnsupportedError, match=part):
            decoded({**PAIR, f"{PREFIX}q.{saved}{part}": (2, 2)}, modules_to_save=["q"])


def test_parameter_of_a_saved_module_may_be_called_as_a_part_is() -> None:
    """A module of the model's own, such as a Snake activation, has an alpha."""
    adapter = decoded({**PAIR, f"{PREFIX}snake.alpha": (3,)}, modules_to_save=["snake"])
    assert adapter.replaced["snake.alpha"].is_trained
    adapter = decoded({**PAIR, f"{PREFIX}classifier.alpha": (3,)}, task_type="SEQ_CLS")
    assert adapter.replaced["classifier.alpha"].is_trained
    with pytest.raises(UnsupportedError, match=r"layer.q.alpha: an alpha as kohya stores it"):
        decoded({**PAIR, f"{PREFIX}layer.q.alpha": ()}, modules_to_save=["q"])


@pytest.mark.parametrize("name", ["q.weight", "layer.alphabet", "layer.diffusion", "alpha.weight"])
def test_weight_that_is_called_almost_as_a_part_is_a_weight(name: str) -> None:
    assert list(decoded({**PAIR, PREFIX + name: (3,)}).replaced) == [name]


def test_two_keys_for_one_part_are_refused() -> None:
    with pytest.raises(FormatError, match=r"lora_A.default.weight: says the same as .*lora_A"):
        decoded({**PAIR, f"{PREFIX}layer.q.lora_A.default.weight": (2, 3)})
    with pytest.raises(FormatError, match=r"q.lora_A: says the same as .*lora_A"):
        decoded({**PAIR, f"{PREFIX}layer.q.lora_A": (2, 3)})


def test_several_adapters_in_one_file_are_refused() -> None:
    one = {key.replace("lora_A.", "lora_A.one."): shape for key, shape in lora("a").items()}
    two = {key.replace("lora_A.", "lora_A.two."): shape for key, shape in lora("b").items()}
    with pytest.raises(FormatError, match=r"here: holds several adapters \(one, two\)"):
        decoded(one | two)


#: What keys are made of, and what they must not be taken for.
_PIECES = st.one_of(
    st.sampled_from(["base_model.model", "q", "weight", "bias", "default", "base_layer", "\n", ""]),
    st.sampled_from(["lora_A", "lora_B", "lora_diag", "lora_velora_embed", "xlora_A"]),
    st.sampled_from(["trainable_tokens_delta", "token_adapter", "original_module"]),
    st.sampled_from(["lora_monteclora_sampler", "modules_to_save"]),
)


@given(st.lists(_PIECES, max_size=5), st.sampled_from(["lora_A.weight", "lora_B.weight", "weight"]))
def test_the_fast_place_of_a_pair_is_where_every_key_is_looked_up(
    pieces: list[str], part: str
) -> None:
    key = PREFIX + ".".join([*pieces, part])
    sorter = _Sorter("here", codecs_of("LORA"))
    source = Held(key, torch.zeros(1), "F32")
    if sorter.place_usual(key, source):
        strict = _Sorter("here", codecs_of("LORA"))
        assert strict.place(key, source) == (1, None)
        assert sorter.parts == strict.parts
    else:
        assert sorter.parts == Parts()


@pytest.mark.parametrize("key", ["lora_A.weight", "lora_A", ".lora_A.weight", f"{PREFIX}.lora_A"])
def test_a_part_of_no_module_has_no_fast_place(key: str) -> None:
    source = Held(key, torch.zeros(1), "F32")
    assert not _Sorter("here", codecs_of("LORA")).place_usual(key, source)


def test_an_ordinary_pair_has_the_fast_place() -> None:
    sorter = _Sorter("here", codecs_of("LORA"))
    tensors = {key: Held(key, torch.zeros(1), "F32") for key in PAIR}
    assert all(sorter.place_usual(key, source) for key, source in tensors.items())
    assert {m: [*roles] for m, roles in sorter.parts.modules.items()} == {
        "layer.q": ["lora_A", "lora_B"]
    }
