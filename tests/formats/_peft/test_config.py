"""What `adapter_config.json` decides, by PEFT's rules, and what it makes impossible."""

import re
from typing import Any

import pytest

from loratools.errors import FormatError, UnsupportedError
from loratools.formats._peft.config import parse_config
from loratools.formats._peft.kinds._lora import LORA
from tests.adapters import lora_of
from tests.formats.bundles import HERE, config, decoded, lora, notes


@pytest.mark.parametrize(
    ("pattern", "module", "hit"),
    [
        ("q_proj", "layers.1.q_proj", True),
        ("q_proj", "q_proj", True),
        ("proj", "layers.1.q_proj", False),  # begins at a dot
        ("layers.1", "layers.1.q_proj", False),  # ends at the end
        ("layers.1.q", "layers.11.q", False),
        ("layers.1.q", "layersX1.q", True),  # a dot is any character
        (r"layers\.1\.q", "layersX1.q", False),
        ("^layers.1.q", "layers.1.q", True),
        ("^layers.1.q", "model.layers.1.q", False),
        ("q|k", "layers.1.k", True),
        ("q|k", "layers.1.qk", False),
        (".*mlp.*", "layers.1.mlp.up", True),
        (r"layers\.[0-2]\.up", "m.layers.3.up", False),
    ],
)
def test_pattern_is_a_regular_expression_from_a_dot_to_the_end(
    pattern: str, module: str, hit: bool
) -> None:
    parsed = parse_config(config(rank_pattern={pattern: 8}, alpha_pattern={pattern: 5}), HERE, LORA)
    assert parsed.expected_rank(module) == (8 if hit else 2)
    assert parsed.scaling(module).value == (5 / 8 if hit else 4 / 2)
    assert parsed.scaling(module).origin == ("alpha_pattern" if hit else "config")


def test_the_first_pattern_that_matches_counts_not_the_most_specific() -> None:
    parsed = parse_config(config(rank_pattern={".*": 8, "layers.1.q": 16}), HERE, LORA)
    assert parsed.expected_rank("layers.1.q") == 8


def test_rank_and_alpha_patterns_are_matched_independently() -> None:
    parsed = parse_config(config(rank_pattern={"q": 8}, alpha_pattern={"k": 32}), HERE, LORA)
    assert [parsed.scaling(module).value for module in "qkv"] == [4 / 8, 32 / 2, 4 / 2]


def test_alpha_of_a_pattern_may_be_zero() -> None:
    """Such a module is switched off; the default does not take the place of 0."""
    assert parse_config(config(alpha_pattern={"q": 0}), HERE, LORA).scaling("q").value == 0


def test_rank_stabilised_scaling_divides_by_the_root_of_the_patterns_rank() -> None:
    parsed = parse_config(config(use_rslora=True, rank_pattern={"q": 16}), HERE, LORA)
    assert parsed.scaling("q").value == 4 / 4


def test_scaling_takes_the_configs_rank_and_not_that_of_the_tensors() -> None:
    adapter = decoded(lora("q", rank=3), r=8)
    assert lora_of(adapter.updates["q.weight"]).scaling.value == 4 / 8
    (refusal,) = notes(adapter, "refusal")
    assert refusal.startswith("the config says rank 8, and the tensors have rank 3: q; ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": None}, "here: config: r must be a finite number, is null"),
        ({"r": "8"}, 'here: config: r must be a finite number, is "8"'),
        ({"r": True}, "here: config: r must be a finite number, is true"),
        ({"r": 0}, "here: config: r must be a positive integer, is 0"),
        ({"r": -4}, "here: config: r must be a positive integer, is -4"),
        ({"r": 2.5}, "here: config: r must be a positive integer, is 2.5"),
        ({"r": float("nan")}, "here: config: r must be a finite number, is NaN"),
        ({"r": float("inf")}, "here: config: r must be a finite number, is Infinity"),
        ({"r": 10**400}, "here: config: r must be a finite number, is 1000"),
        ({"lora_alpha": None}, "here: config: lora_alpha must be a finite number, is null"),
        ({"lora_alpha": [1]}, r"here: config: lora_alpha must be a finite number, is \[1\]"),
        ({"rank_pattern": ["q"]}, "here: config: rank_pattern must map names to numbers"),
        ({"rank_pattern": {"q": "8"}}, "here: config: rank_pattern: q must be a finite number"),
        ({"rank_pattern": {"q": 0}}, "here: config: rank_pattern: q must be a positive integer"),
        ({"alpha_pattern": {"q": None}}, "here: config: alpha_pattern: q must be a finite number"),
        (
            {"alpha_pattern": {"q(": 1}},
            r"config: alpha_pattern: 'q\(' is not a regular expr",
        ),
    ],
    ids=str,
)
def test_field_that_decides_the_scaling_and_is_malformed_is_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        decoded(lora("layer.q"), **fields)


def test_whole_numbers_may_be_written_as_floats() -> None:
    assert parse_config(config(r=8.0), HERE, LORA).rank == 8


@pytest.mark.parametrize("alpha", [0, -4, 0.5, 16])
def test_alpha_may_be_any_number(alpha: float) -> None:
    adapter = decoded(lora("q"), lora_alpha=alpha)
    assert lora_of(adapter.updates["q.weight"]).scaling.value == alpha / 2


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("PROMPT_TUNING", "trains virtual tokens .*, and is no update of weights"),
        ("PREFIX_TUNING", "trains keys and values .*, and is no update of weights"),
        ("ADAPTION_PROMPT", "trains prompts .*, and is no update of weights"),
        ("XLORA", "mixes its experts by each token, and is no update of weights"),
        ("new", "peft_type 'new' is not supported yet"),
        (None, "has no peft_type"),
        (3, "peft_type must be a name, is 3"),
    ],
)
def test_other_type_than_lora_is_refused_with_the_reason(kind: Any, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=f"here: config: .*{reason}"):
        decoded(lora("q"), peft_type=kind)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"alora_invocation_tokens": [1, 2]},
            "alora_invocation_tokens: aLoRA acts only after its invocation",
        ),
        ({"arrow_config": {"top_k": 3}}, "arrow_config: Arrow mixes its experts"),
        ({"use_qalora": True}, "use_qalora: QA-LoRA pools the inputs"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication: .* repeated layers"),
        ({"target_parameters": ["experts.down"]}, "target_parameters: .* cannot be merged yet"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa': training started from"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16'"),
        ({"init_lora_weights": "OLoRA"}, "init_lora_weights is 'OLoRA'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights is 'lora_ga'"),
    ],
    ids=str,
)
def test_what_cannot_be_merged_is_a_refusal(fields: dict[str, Any], reason: str) -> None:
    refusals = notes(decoded(lora("q"), **fields), "refusal")
    assert len(refusals) == 1
    assert re.match(reason, refusals[0])


@pytest.mark.parametrize(
    "init", [True, False, "gaussian", "eva", "orthogonal", "mica", None], ids=str
)
def test_initialisations_that_leave_the_base_alone_are_no_matter(init: Any) -> None:
    assert not notes(decoded(lora("q"), init_lora_weights=init), "refusal")


@pytest.mark.parametrize(
    "fields",
    [
        {"alora_invocation_tokens": None, "arrow_config": None, "use_qalora": False},
        {"layer_replication": [], "target_parameters": None},
        {"loftq_config": {}, "megatron_core": "megatron.core", "a_field_of_the_future": 3},
        {"lora_dropout": 0.1, "inference_mode": True, "use_bdlora": None},
    ],
    ids=str,
)
def test_settings_that_are_off_or_only_train_do_not_matter(fields: dict[str, Any]) -> None:
    assert decoded(lora("q"), **fields).notes == ()


@pytest.mark.parametrize(
    ("field", "value"), [("enable_lora", True), ("enable_lora", {"q": True}), ("use_bdlora", True)]
)
def test_a_setting_of_another_type_than_its_own_is_refused(field: str, value: object) -> None:
    fields = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, field: value}
    with pytest.raises(FormatError, match=f"here: {field} must be an? "):
        parse_config(fields, HERE, LORA)
