"""What a config announces and the tensors lack is refused, by every verb that would use it."""

from typing import Any

import pytest

from loratools.errors import UnsupportedError
from tests.adapters import lora_of
from tests.formats.bundles import PREFIX, Shapes, decoded, lora, notes

Q, K = lora("layers.0.q"), lora("layers.0.k")
EMBEDDING = {f"{PREFIX}tok.lora_embedding_A": (2, 7), f"{PREFIX}tok.lora_embedding_B": (3, 2)}
ROWS = {f"{PREFIX}tok.token_adapter.trainable_tokens_delta": (2, 3)}


def part(role: str, *shape: int, module: str = "layers.0.q") -> dict[str, tuple[int, ...]]:
    return {f"{PREFIX}{module}.{role}": shape}


MAGNITUDE, DIAGONAL = part("lora_magnitude_vector", 4), part("lora_diag", 2)
BIAS = part("lora_B.bias", 4)


@pytest.mark.parametrize(
    ("shapes", "fields", "refusal"),
    [
        (
            Q,
            {"use_dora": True},
            "use_dora is set, and 1 of 1 module has no lora_magnitude_vector",
        ),
        (Q | MAGNITUDE | K, {"use_dora": True}, "use_dora is set, and 1 of 2 modules has no"),
        (Q | MAGNITUDE | EMBEDDING, {"use_dora": True}, "1 of 2 modules has no lora_magnitude"),
        (Q, {"use_dora": "false"}, "use_dora is set, and 1 of 1 module has no"),
        (Q, {"use_dora": 1}, "use_dora is set, and 1 of 1 module has no"),
        (Q, {"kasa_config": {}}, "kasa_config is set, and 1 of 1 module has no lora_diag"),
        (Q | DIAGONAL | K, {"kasa_config": {}}, "kasa_config is set, and 1 of 2 modules has no"),
        (Q, {"lora_bias": True}, r"lora_bias is set, and 1 of 1 module has no lora_B\.bias"),
        (Q | BIAS | K, {"lora_bias": True}, "lora_bias is set, and 1 of 2 modules has no"),
        (Q, {"modules_to_save": ["head"]}, "modules_to_save lists head, which is not stored"),
        (Q, {"modules_to_save": "head"}, "modules_to_save lists head, which is not stored"),
        (
            Q | {f"{PREFIX}head.weight": (5, 3)},
            {"modules_to_save": ["head", "norm"]},
            "modules_to_save lists norm, which is not stored",
        ),
        (
            Q,
            {"modules_to_save": ["classifier", "score"]},
            "modules_to_save lists classifier, score, which is not stored",
        ),
        (Q, {"trainable_token_indices": [0, 1]}, "trainable_token_indices announces rows that"),
        (
            Q | ROWS,
            {"trainable_token_indices": {"tok": [0, 1], "lm_head": [3]}},
            "trainable_token_indices announces rows of lm_head that",
        ),
        (Q, {"r": 8}, r"the config says rank 8, and the tensors have rank 2: layers\.0\.q"),
        (Q | K, {"rank_pattern": {"q": 1}}, "the config says rank 1, and the tensors have rank 2"),
        (
            {"q.lora_A": (5, 2), "q.lora_B": (2, 5)},
            {"r": 2},
            r"have rank 5: q; the other way round they have rank 2: are A and B swapped\?",
        ),
        (EMBEDDING, {"r": 3}, "the config says rank 3, and the tensors have rank 2: tok"),
        (
            Q | EMBEDDING,
            {"r": 4, "rank_pattern": {"tok": 2}, "ensure_weight_tying": True},
            "the config says rank 4, and the tensors have rank 2: layers.0.q",
        ),
        (Q, {"bias": "lora"}, "bias is 'lora', which is none of none, all, lora_only"),
        (Q, {"bias": True}, "bias is True, which is none of"),
    ],
    ids=str,
)
def test_announced_part_that_is_not_stored_is_refused_and_described(
    shapes: Shapes, fields: dict[str, Any], refusal: str
) -> None:
    adapter = decoded(shapes, **fields)
    with pytest.raises(UnsupportedError, match=refusal):
        adapter.check_usable()


@pytest.mark.parametrize(
    ("shapes", "fields"),
    [
        (Q | MAGNITUDE, {"use_dora": True}),
        (Q | MAGNITUDE, {"use_dora": "yes"}),
        (Q, {"use_dora": ""}),
        (Q, {"use_dora": 0}),
        (Q, {"use_dora": None, "lora_bias": None, "kasa_config": None, "bias": None}),
        (Q | DIAGONAL, {"kasa_config": {}}),
        (Q | BIAS, {"lora_bias": True}),
        (Q | ROWS, {"trainable_token_indices": [0, 1]}),
        (Q | ROWS, {"trainable_token_indices": {"tok": [0, 1]}}),
        (Q, {"trainable_token_indices": []}),
        (Q, {"modules_to_save": []}),
        (Q | {f"{PREFIX}score.weight": (5, 3)}, {"modules_to_save": ["classifier", "score"]}),
        (Q | K, {"r": 8, "rank_pattern": {".*": 2}}),
        # PEFT lists its names of a head for every model, such as XLNet or BART.
        (
            Q | {f"{PREFIX}logits_proj.weight": (5, 3)},
            {"modules_to_save": ["logits_proj", "classifier", "score"], "task_type": "SEQ_CLS"},
        ),
        (
            Q | {f"{PREFIX}classifier.weight": (5, 3)},
            {"modules_to_save": ["qa_outputs", "classifier"], "task_type": "QUESTION_ANS"},
        ),
    ],
    ids=str,
)
def test_announced_part_that_is_stored_is_nothing_to_remark(
    shapes: Shapes, fields: dict[str, Any]
) -> None:
    adapter = decoded(shapes, **fields)
    adapter.check_usable()
    assert not notes(adapter, "problem")


def test_head_that_peft_lists_for_every_model_may_be_none_of_this_one() -> None:
    """A problem that a person can judge, and no refusal: PEFT loads such an adapter of BART."""
    adapter = decoded(Q, modules_to_save=["classifier", "score"], task_type="SEQ_CLS")
    adapter.check_usable()
    (problem,) = notes(adapter, "problem")
    assert problem.startswith("task_type is SEQ_CLS, and no head is stored: if the model has class")


@pytest.mark.parametrize(
    ("shapes", "field"),
    [(Q | MAGNITUDE, "use_dora"), (Q | DIAGONAL, "kasa_config"), (Q | BIAS, "lora_bias")],
    ids=str,
)
def test_part_that_the_config_does_not_announce_is_a_problem(shapes: Shapes, field: str) -> None:
    adapter = decoded(shapes)
    adapter.check_usable()
    (problem,) = notes(adapter, "problem")
    assert problem.startswith(f"{field} is not set, and ")


@pytest.mark.parametrize(
    ("fields", "info"),
    [
        (
            {"use_rslora": "false"},
            "use_rslora is 'false', which PEFT takes for true, as any text but an empty one is",
        ),
        ({"use_rslora": 0}, "use_rslora is 0, which PEFT takes for false"),
        ({"fan_in_fan_out": ""}, "fan_in_fan_out is '', which PEFT takes for false"),
        ({"use_rslora": [False]}, "use_rslora is [False], which PEFT takes for true"),
    ],
)
def test_flag_that_is_no_boolean_counts_as_peft_takes_it_and_is_told(
    fields: dict[str, Any], info: str
) -> None:
    adapter = decoded(Q, **fields)
    assert notes(adapter, "info") == [info]
    (name,) = fields
    update = adapter.updates["layers.0.q.weight"]
    if name == "use_rslora":
        assert (lora_of(update).scaling.rule == "sqrt_rank") is bool(fields[name])
