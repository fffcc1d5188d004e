"""Where config and tensors disagree, a problem is noted; where they merely differ, nothing is."""

from typing import Any

import pytest

from tests.formats.bundles import PREFIX, Shapes, decoded, lora, notes

Q, K = lora("layers.0.q"), lora("layers.0.k")
HEAD = {f"{PREFIX}head.weight": (5, 3)}
BIAS = {f"{PREFIX}layers.0.q.base_layer.bias": (4,)}


@pytest.mark.parametrize(
    ("shapes", "fields", "problems"),
    [
        (Q, {"target_modules": ["q"]}, []),
        (Q, {"target_modules": ["layers.0.q"]}, []),
        (Q, {"target_modules": "all-linear"}, []),
        (Q, {"target_modules": r".*\.q"}, []),
        (Q, {"target_modules": None}, []),
        (
            Q,
            {"target_modules": ["0.k"]},
            [
                "not in target_modules, so PEFT skips it: layers.0.q",
                "target_modules lists '0.k', which has no tensors",
            ],
        ),
        (
            Q | K,
            {"target_modules": "layers.0.k"},
            ["not in target_modules, so PEFT skips it: layers.0.q"],
        ),
        *(
            (
                Q,
                {"target_modules": ["q"]} | fields,
                [
                    "left out by exclude_modules, layers_to_transform and layers_pattern, so PEFT "
                    "skips it: layers.0.q"
                ],
            )
            for fields in ({"exclude_modules": ["q"]}, {"layers_to_transform": 1})
        ),
        (
            Q,
            {
                "target_modules": ["q"],
                "exclude_modules": ["k"],
                "layers_to_transform": [0],
                "layers_pattern": "layers",
            },
            [],
        ),
        (Q | K, {"target_modules": ["q"], "ensure_weight_tying": True}, []),
        (Q, {"modules_to_save": ""}, []),
        (Q, {"target_modules": ["q", "k"]}, ["target_modules lists 'k', which has no tensors"]),
        (
            Q,
            {"bias": "lora_only", "peft_version": "0.20.1"},
            [
                "bias is 'lora_only', and no bias is stored (PEFT 0.7 to 0.20 lost those of "
                "'lora_only')"
            ],
        ),
        (Q | HEAD, {"target_modules": ["q", "head"], "modules_to_save": ["head"]}, []),
        (
            Q,
            {"rank_pattern": {"q": 2, ".*": 4}},
            [
                "rank_pattern: q, .* all match layers.0.q; the first counts, and PEFT does not "
                "keep their order when it saves"
            ],
        ),
        (Q, {"rank_pattern": {"q": 2, ".*": 2}}, []),
        (Q | HEAD, {"modules_to_save": ["head"]}, []),
        (Q | HEAD, {"modules_to_save": "head"}, []),
        (Q, {"task_type": "CAUSAL_LM"}, []),
        (
            Q,
            {"task_type": "SEQ_CLS"},
            [
                "task_type is SEQ_CLS, and no head is stored: if the model has classifier, score, "
                "what was trained there is lost; a head of another name is as in the base"
            ],
        ),
        (Q | BIAS, {"bias": "all"}, []),
        (Q | BIAS, {"bias": "lora_only"}, []),
        (
            Q,
            {"bias": "lora_only"},
            [
                "bias is 'lora_only', and no bias is stored (PEFT 0.7 to 0.20 lost those of "
                "'lora_only')"
            ],
        ),
    ],
    ids=str,
)
def test_disagreement_of_config_and_tensors_is_a_problem(
    shapes: Shapes, fields: dict[str, Any], problems: list[str]
) -> None:
    assert notes(decoded(shapes, **fields), "problem") == problems


@pytest.mark.parametrize(
    ("shapes", "fields", "infos"),
    [
        (
            Q | {f"{PREFIX}score.weight": (5, 3)},
            {"modules_to_save": ["classifier", "score"]},
            ["modules_to_save also lists classifier, which is not stored"],
        ),
        (
            Q | {f"{PREFIX}score.weight": (5, 3), f"{PREFIX}pool.weight": (3, 3)},
            {"modules_to_save": ["pool", "classifier", "score"], "task_type": "TOKEN_CLS"},
            ["modules_to_save also lists classifier, which is not stored"],
        ),
        (
            Q | {f"{PREFIX}classification_head.out_proj.weight": (5, 3)},
            {"modules_to_save": ["classification_head", "classifier", "score"]},
            ["modules_to_save also lists classifier, score, which is not stored"],
        ),
        (
            Q | {f"{PREFIX}pre_classifier.bias": (3,), f"{PREFIX}classifier.weight": (5, 3)},
            {"task_type": "SEQ_CLS"},
            [
                "modules_to_save does not list pre_classifier.bias, classifier.weight; with "
                "task_type SEQ_CLS, PEFT trains and loads it all the same"
            ],
        ),
        (
            Q | {f"{PREFIX}qa_outputs.weight": (2, 3)},
            {},
            ["stored whole, not listed in modules_to_save: qa_outputs.weight"],
        ),
        (Q, {"bias": "all"}, ["bias is 'all', and no bias is stored"]),
        (
            Q,
            {"bias": "lora_only", "peft_version": "0.21.0"},
            ["bias is 'lora_only', and no bias is stored"],
        ),
        (
            Q,
            {"target_modules": ["q", "k"], "exclude_modules": ["k"]},
            ["target_modules lists 'k', which has no tensors"],
        ),
        (Q | HEAD, {}, ["stored whole, not listed in modules_to_save: head.weight"]),
        (Q | {f"{PREFIX}layers.0.norm.bias": (3,)}, {"bias": "all"}, []),
        (Q | {f"{PREFIX}tok.base_layer.weight": (5, 3)}, {}, []),
    ],
    ids=str,
)
def test_what_is_merely_worth_knowing_is_no_problem(
    shapes: Shapes, fields: dict[str, Any], infos: list[str]
) -> None:
    adapter = decoded(shapes, **fields)
    assert notes(adapter, "info") == infos
    assert not notes(adapter, "problem")
