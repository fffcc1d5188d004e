"""The rules of names agree with diffusers' own converters of checkpoints, and with its classes."""

import runpy
from pathlib import Path

import pytest

from loratools.names.rules import parse_rules
from tests.names.key_lists import MODELS as LISTED
from tests.names.key_lists import key_list
from tests.oracles import WARNED, oracle

oracle("diffusers")

from tests.oracle._converters import MODELS  # noqa: E402
from tests.oracle._traced import Difference, Kind, differences, is_unused, traced  # noqa: E402

MOVED = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
pytestmark = [pytest.mark.oracle, *WARNED, MOVED]
each_model = pytest.mark.parametrize("model", MODELS)


def found(model: str, text: str) -> list[Difference]:
    """The differences of rules for a model from what diffusers makes of it."""
    return differences(model, parse_rules(text)[1])


def test_every_key_list_is_converted() -> None:
    assert MODELS.keys() == set(LISTED)


@each_model
def test_rules_give_the_names_and_rows_that_diffusers_gives(model: str) -> None:
    assert found(model, key_list(model).rules_text()) == []


@pytest.mark.parametrize("model", [name for name, model in MODELS.items() if model.unused])
def test_what_a_model_is_said_not_to_use_is_there_and_unused(model: str) -> None:
    trace = traced(model)
    assert not [name for name in trace.sources().values() if is_unused(model, name)]
    for beginning in MODELS[model].unused:
        assert [name for name in trace.original if name.startswith(beginning)]


@pytest.mark.parametrize(
    ("model", "old", "new", "kinds"),
    [
        ("flux1", "[1/3:2/3]", "[0:1/3]", {"rows"}),
        ("flux1", "[3/7:1]", "[4/7:1]", {"rows"}),
        ("flux1", " [1/2:1, 0:1/2]", "", {"rows"}),
        (
            "flux1",
            "img_in = ",
            "other = transformer_blocks.{i}.attn.to_q.weight\nimg_in = ",
            {"inverse"},
        ),
        ("flux2", "final_layer.linear = proj_out", "", {"missing", "unused"}),
        ("flux2", "img_mlp.0 = ", "img_mlp = ", {"missing", "extra"}),
        ("chroma", "attn.norm_q.weight", "attn.norm_k.weight", {"missing", "rows"}),
        ("openclip_g", " [transposed]", "", {"rows", "shape"}),
        ("sd1", "{3i+j+1}.1 = ", "{3i+j}.1 = ", {"missing", "rows", "unused"}),
        ("sd3", "joint_blocks.{last}", "#", {"rows"}),
        ("mochi", "blocks.{last}", "#", {"missing", "extra"}),
        ("lumina2", "[0:n]", "[-n:]", {"rows"}),
        ("krea2", " [reshaped]", "", {"rows", "shape"}),
        ("t5_xxl", "shared = shared", "shared = embedding", {"missing", "extra"}),
    ],
)
def test_a_wrong_rule_is_noticed(model: str, old: str, new: str, kinds: set[Kind]) -> None:
    text = key_list(model).rules_text()
    assert old in text
    assert {difference.kind for difference in found(model, text.replace(old, new, 1))} == kinds


def test_a_converter_that_gives_another_name_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = traced("flux1")
    name = next(iter(trace.converted))
    monkeypatch.setitem(trace.converted, "new", trace.converted[name])
    monkeypatch.delitem(trace.converted, name)
    kinds = [difference.kind for difference in found("flux1", key_list("flux1").rules_text())]
    assert sorted(kinds) == ["class", "class", "extra", "missing"]


def test_a_class_that_has_another_shape_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = traced("flux1")
    name = "transformer_blocks.0.attn.to_q.weight"
    monkeypatch.setitem(trace.diffusers, name, (3072, 3073))
    assert found("flux1", key_list("flux1").rules_text()) == [
        Difference("shape", name, "(3072, 3073), of (9216, 3072)")
    ]


@pytest.mark.parametrize("model", ["sd1", "openclip_h", "sd3", "mochi", "lumina2", "krea2"])
def test_the_rules_that_are_proposed_agree(model: str) -> None:
    derive = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "derive-names"))
    assert found(model, "\n".join(derive["proposed"](model))) == []
