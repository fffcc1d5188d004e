"""From PEFT's tensors and config to updates: shapes, orientations, half pairs, refusals."""

from typing import Any

import pytest

from loratools.deltas.diff import Diff
from loratools.errors import FormatError, LoratoolsError, ShapeMismatchError, UnsupportedError
from tests.adapters import lora_of
from tests.formats._peft.parts import parts
from tests.formats.bundles import PREFIX, Shapes, decoded, lora, notes
from tests.narrowing import present

PAIR = lora("layer.q")


@pytest.mark.parametrize("claimed", [True, False])
def test_config_claims_the_orientation_of_a_matrix(claimed: bool) -> None:
    adapter = decoded(PAIR, fan_in_fan_out=claimed)
    assert adapter.updates["layer.q.weight"].fan_in_fan_out is claimed


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("lora_A.weight", "layer.q has lora_B and no lora_A: half an update"),
        ("lora_B.weight", "layer.q has lora_A and no lora_B: half an update"),
    ],
)
def test_half_a_pair_is_refused(missing: str, message: str) -> None:
    shapes = {key: shape for key, shape in PAIR.items() if not key.endswith(missing)}
    with pytest.raises(FormatError, match=f"here: {message}"):
        decoded(shapes)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (parts(lora_embedding_A=(2, 7)), "lora_embedding_A and no lora_embedding_B"),
        (parts(lora_embedding_B=(3, 2)), "lora_embedding_B and no lora_embedding_A"),
        (parts(lora_magnitude_vector=(4,)), "lora_magnitude_vector and no lora_A"),
        (parts(lora_diag=(2,)), "lora_diag and no lora_A"),
        (parts(lora_B__bias=(4,)), "lora_B.bias and no lora_A"),
    ],
    ids=str,
)
def test_part_without_its_pair_is_refused(shapes: Shapes, message: str) -> None:
    with pytest.raises(FormatError, match=f"layer.q has {message}: half an update"):
        decoded({**lora("other"), **shapes})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (parts(lora_magnitude_vector=(3,)), "4 magnitudes are expected"),
        (
            parts(**{"lora_B.bias": (3,)}),
            r"q: lora_B.bias has the shape \[3\], where 4 numbers are expected",
        ),
        (parts(lora_diag=(3,)), "2 entries are expected"),
    ],
    ids=str,
)
def test_vector_of_the_wrong_length_is_refused(shapes: Shapes, message: str) -> None:
    with pytest.raises(ShapeMismatchError, match=message):
        decoded({**PAIR, **shapes})


@pytest.mark.parametrize(
    "part",
    ["lora_diag", "lora_magnitude_vector", "lora_embedding_A", "lora_embedding_B", "lora_A"],
)
def test_bias_of_a_part_that_has_none_is_refused_alone_and_beside_a_pair(part: str) -> None:
    for shapes in ({}, PAIR):
        with pytest.raises(UnsupportedError, match=f"layer.q: a bias on {part}"):
            decoded({**shapes, f"base_model.model.layer.q.{part}.bias": (4,)})


@pytest.mark.parametrize(
    "others",
    [
        parts(lora_embedding_A=(2, 7), lora_embedding_B=(3, 2)),
        parts(lora_magnitude_vector=(4,), lora_diag=(2,)),
    ],
    ids=str,
)
def test_parts_of_two_updates_of_one_module_are_refused(others: Shapes) -> None:
    with pytest.raises(UnsupportedError, match=r"layer\.q: "):
        decoded({**PAIR, **others})


#: No axes, too few of them, none of a rank, none of an output.
STUNTED = [(), (2,), (0, 3), (4, 0), (0,)]


@pytest.mark.parametrize(
    "pair", [("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")]
)
@pytest.mark.parametrize("down", [*STUNTED, (2, 3), (2, 3, 1, 1)])
@pytest.mark.parametrize("up", [*STUNTED, (4, 2), (4, 2, 1, 1)])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"enable_lora": [True, False]},
        {"use_bdlora": {"target_modules_bd_a": ["q"], "nblocks": 2}},
    ],
    ids=str,
)
def test_pair_of_any_shapes_is_an_update_with_a_rank_or_refused(
    pair: tuple[str, str], down: tuple[int, ...], up: tuple[int, ...], config: dict[str, Any]
) -> None:
    keys = [f"base_model.model.layer.q.{part}" for part in pair]
    try:
        adapter = decoded(dict(zip(keys, (down, up), strict=True)), **config)
    except LoratoolsError:
        return
    lora = adapter.updates["layer.q.weight"].delta.low_rank
    assert lora is not None
    assert lora.rank > 0
    assert 0 not in lora.shape


@pytest.mark.parametrize(
    "part",
    ["lora_magnitude_vector", "lora_diag", "lora_B.bias", "token_adapter.trainable_tokens_delta"],
)
@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (1, 0)])
def test_part_of_no_number_is_refused(part: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(LoratoolsError):
        decoded({**PAIR, f"base_model.model.layer.q.{part}": shape}, trainable_token_indices=[])


def test_two_updates_of_one_weight_are_refused() -> None:
    """The output projection inside the attention, and under its own name."""
    shapes = lora("mha.base_layer.out_proj", rows=3) | lora("mha.out_proj", rows=3)
    with pytest.raises(FormatError, match=r"mha\.out_proj\.weight has two updates"):
        decoded(shapes | lora("mha", rows=9))


@pytest.mark.parametrize(
    "module", ["experts.base_layer", "experts.base_layer.base_layer", "mha.base_layer.proj"]
)
def test_nested_wrappers_are_refused(module: str) -> None:
    with pytest.raises(UnsupportedError, match="nested wrappers"):
        decoded(lora(module))


@pytest.mark.parametrize("shapes", [{}, {f"{PREFIX}layer.q.alpha": ()}], ids=str)
def test_adapter_without_an_adapter_tensor_is_refused(shapes: Shapes) -> None:
    with pytest.raises(UnsupportedError, match="here: holds no adapter tensor"):
        decoded(shapes)


def test_adapter_of_whole_modules_only_is_one() -> None:
    adapter = decoded({f"{PREFIX}score.weight": (2, 3)}, modules_to_save=["score"])
    assert list(adapter.replaced) == ["score.weight"]


class TestAttention:
    """A MultiheadAttention: one pair for the fused input projection, one inside for the output."""

    SHAPES = lora("mha", rows=9) | lora("mha.base_layer.out_proj", rows=3)

    @pytest.mark.parametrize(
        ("version", "times"),
        [(None, 2), ("0.15.0", 2), ("0.18.1", 2), ("0.21.2", 2), ("0.21.1.dev0", 2)],
    )
    def test_output_projection_counts_twice_as_every_known_peft_did(
        self, version: str | None, times: int
    ) -> None:
        adapter = decoded(self.SHAPES, peft_version=version)
        names = ["mha.in_proj_weight", "mha.out_proj.weight"]
        assert list(adapter.updates) == names
        found = [lora_of(adapter.updates[name]).scaling.value for name in names]
        assert found == [2, 2 * times]
        assert "counts twice" in notes(adapter, "info")[0]

    @pytest.mark.parametrize("version", ["0.21.3", "0.22.0", "1.0", "0.22.0.dev0"])
    def test_output_projection_of_an_unknown_peft_is_a_refusal(self, version: str) -> None:
        refusals = notes(decoded(self.SHAPES, peft_version=version), "refusal")
        assert refusals == [
            f"mha.out_proj: PEFT up to 0.21.2 applies this update twice; whether {version} does "
            f"is not known here; say it with dialect_options={{'out_proj': 'once'}} or "
            f"dialect_options={{'out_proj': 'twice'}}"
        ]

    @pytest.mark.parametrize(("asked", "times"), [("once", 1), ("twice", 2)])
    @pytest.mark.parametrize("version", ["0.21.2", "9.0"])
    def test_it_counts_as_asked(self, asked: Any, times: int, version: str) -> None:
        adapter = decoded(self.SHAPES, {"out_proj": asked}, peft_version=version)
        assert lora_of(adapter.updates["mha.out_proj.weight"]).scaling.times == times
        assert not notes(adapter, "refusal")

    def test_patterns_see_the_attention_and_not_its_output_projection(self) -> None:
        adapter = decoded(self.SHAPES, alpha_pattern={"out_proj": 100, "mha": 6})
        assert lora_of(adapter.updates["mha.out_proj.weight"]).scaling.alpha == 6

    def test_bias_of_the_input_projection_is_stored_and_never_applied(self) -> None:
        key = f"{PREFIX}mha.lora_B.bias"
        adapter = decoded({**self.SHAPES, key: (9,)})
        assert adapter.inert == {key: "PEFT stores it and never applies it"}
        assert list(adapter.updates) == ["mha.in_proj_weight", "mha.out_proj.weight"]

    def test_bias_of_the_output_projection_counts_once(self) -> None:
        key = f"{PREFIX}mha.base_layer.out_proj.lora_B.bias"
        adapter = decoded({**self.SHAPES, key: (3,)})
        delta = adapter.updates["mha.out_proj.bias"].delta
        assert isinstance(delta, Diff)
        assert delta.scaling.times == 1


def test_provenance_and_settings_are_the_configs() -> None:
    adapter = decoded(
        PAIR,
        base_model_name_or_path="org/base",
        revision="abc",
        task_type="CAUSAL_LM",
        peft_version="0.21.2",
        bias="none",
        lora_dropout=0.5,
        use_dora=False,
    )
    assert adapter.provenance.base == "org/base"
    assert adapter.provenance.revision == "abc"
    assert adapter.provenance.task == "CAUSAL_LM"
    assert adapter.provenance.trainer == "peft 0.21.2"
    assert dict(present(adapter.filed).settings) == {"r": 2, "lora_alpha": 4, "bias": "none"}
