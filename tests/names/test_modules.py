"""A part of a fused weight is rows of it in a model that is known, and is refused in others."""

import re

import pytest

from loratools.deltas.placed import Run
from loratools.errors import MatchError
from loratools.names.matching import BaseNames, Place
from loratools.names.modules import Known, Pattern, known_modules, models_of

#: 4 heads of 8 for queries, and 2 for keys and for values.
LAYER: dict[str, tuple[int, ...]] = {
    "self_attn.qkv_proj.weight": (64, 16),
    "self_attn.o_proj.weight": (16, 32),
    "mlp.gate_up_proj.weight": (24, 16),
    "mlp.down_proj.weight": (16, 12),
}
APART: dict[str, tuple[int, ...]] = {
    "self_attn.q_proj.weight": (32, 16),
    "self_attn.k_proj.weight": (16, 16),
    "self_attn.v_proj.weight": (16, 16),
    "self_attn.o_proj.weight": (16, 32),
    "mlp.gate_proj.weight": (12, 16),
    "mlp.up_proj.weight": (12, 16),
    "mlp.down_proj.weight": (16, 12),
}
PHI = frozenset({"phi3"})


def base(
    layer: dict[str, tuple[int, ...]], *models: str, prefix: str = "model.layers."
) -> BaseNames:
    shapes = {f"{prefix}{n}.{name}": shape for n in range(2) for name, shape in layer.items()}
    return BaseNames(shapes, frozenset(models))


@pytest.mark.parametrize("prefix", ["model.layers.", "model.language_model.layers.", "layers."])
@pytest.mark.parametrize(
    ("part", "whole", "at", "count"),
    [
        ("self_attn.q_proj", "self_attn.qkv_proj", 0, 32),
        ("self_attn.k_proj", "self_attn.qkv_proj", 32, 16),
        ("self_attn.v_proj", "self_attn.qkv_proj", 48, 16),
        ("mlp.gate_proj", "mlp.gate_up_proj", 0, 12),
        ("mlp.up_proj", "mlp.gate_up_proj", 12, 12),
    ],
)
def test_a_part_is_its_rows_of_the_fused_weight(
    prefix: str, part: str, whole: str, at: int, count: int
) -> None:
    match = base(LAYER, "phi3", prefix=prefix).match(f"model.layers.1.{part}.weight", (count, 16))
    runs = (Run(0, at, count),)
    assert match.places == (Place(f"{prefix}1.{whole}.weight", 0, count, runs),)


def test_a_fused_target_is_all_rows_of_its_parts() -> None:
    match = base(APART, "llama").match("layers.0.self_attn.qkv_proj.weight", (64, 16))
    assert [(place.name, place.begin, place.end) for place in match.places] == [
        ("model.layers.0.self_attn.q_proj.weight", 0, 32),
        ("model.layers.0.self_attn.k_proj.weight", 32, 48),
        ("model.layers.0.self_attn.v_proj.weight", 48, 64),
    ]


@pytest.mark.parametrize(
    ("part", "rows"), [("q_proj", 16), ("q_proj", 64), ("k_proj", 32), ("v_proj", 8)]
)
def test_a_part_with_another_number_of_heads_is_refused(part: str, rows: int) -> None:
    with pytest.raises(MatchError, match="the base has it with another shape"):
        base(LAYER, "phi3").match(f"model.layers.0.self_attn.{part}.weight", (rows, 16))


@pytest.mark.parametrize("rows", [65, 32, 31, 8])
def test_a_fused_weight_that_its_heads_do_not_divide_has_no_parts(rows: int) -> None:
    """`o_proj` reads 32 rows of queries, so that keys and values share the others, equally."""
    names = base(LAYER | {"self_attn.qkv_proj.weight": (rows, 16)}, "phi3")
    for part, size in (("q_proj", 32), ("k_proj", 16), ("v_proj", 16)):
        with pytest.raises(MatchError, match="no such tensor in the base"):
            names.match(f"model.layers.0.self_attn.{part}.weight", (size, 16))


@pytest.mark.parametrize("models", [(), ("zhinao",), ("llama", "siglip")])
def test_rows_of_an_unknown_order_are_refused(models: tuple[str, ...]) -> None:
    known = " or ".join(models) or "a model without a config.json"
    message = (
        "model.layers.0.self_attn.q_proj.weight [32, 16]: no such tensor in the base; "
        "model.layers.0.self_attn.qkv_proj.weight may have it fused with others, and the order of "
        f"its rows is not known of {known}"
    )
    with pytest.raises(MatchError, match=re.escape(message)):
        base(LAYER, *models).match("model.layers.0.self_attn.q_proj.weight", (32, 16))


@pytest.mark.parametrize(
    ("fused", "part", "model"),
    [
        ("gpt_neox.layers.0.attention.query_key_value", "attention.query", "gpt_neox"),
        ("h.0.self_attention.query_key_value", "self_attention.query", "bloom"),
        ("transformer.h.0.self_attention.query_key_value", "self_attention.value", "falcon"),
        ("transformer.h.0.attn.qkv_proj", "attn.q_proj", "codegen"),
        ("model.layers.0.attention.wqkv", "attention.wq", "internlm2"),
        ("model.layers.0.self_attn.qkv_proj", "self_attn.q_proj", "minimax"),
    ],
)
def test_heads_that_alternate_are_no_parts(fused: str, part: str, model: str) -> None:
    names = BaseNames({f"{fused}.weight": (48, 16)}, frozenset({model}))
    for rows in (16, 8):
        with pytest.raises(MatchError, match=f"{fused}.weight may have it fused .* of {model}$"):
            names.match(f"{fused.rpartition('.')[0].rpartition('.')[0]}.{part}.weight", (rows, 16))


def test_a_weight_that_is_stored_is_what_its_name_means() -> None:
    shapes = LAYER | APART
    names = base(shapes, "phi3")
    for name, shape in shapes.items():
        assert names.match(f"model.layers.0.{name}", shape).places[0].name.endswith(f"0.{name}")


def test_a_fused_weight_of_which_a_part_is_stored_has_no_other_parts() -> None:
    mixed = LAYER | {"self_attn.q_proj.weight": (32, 16)}
    with pytest.raises(MatchError, match="no such tensor"):
        base(mixed, "phi3").match("model.layers.0.self_attn.k_proj.weight", (16, 16))


def test_parts_that_are_not_all_there_make_no_fused_weight() -> None:
    some = {name: shape for name, shape in APART.items() if "v_proj" not in name}
    with pytest.raises(MatchError, match="no such tensor"):
        base(some, "llama").match("model.layers.0.self_attn.qkv_proj.weight", (48, 16))


def test_the_types_of_all_models_in_a_config_are_known() -> None:
    config = {
        "model_type": "llava",
        "text_config": {"model_type": "phi3", "rope_scaling": {"type": "longrope"}},
        "vision_config": {"model_type": "clip_vision_model"},
    }
    assert models_of(config) == {"llava", "phi3", "clip_vision_model"}
    assert models_of({}) == models_of(None) == frozenset()


@pytest.mark.parametrize("known", known_modules(), ids=lambda known: ".".join(known.whole))
def test_every_row_of_a_stored_module_is_one_of_exactly_one_part(known: Known) -> None:
    def name(pattern: Pattern) -> str:
        return ".".join(("x", *(word.replace("{i}", "7") for word in pattern), "weight"))

    shapes: dict[str, tuple[int, ...]] = {name(known.whole): (24, 4)}
    others = len(known.parts) - 1
    sizes = [24 // len(known.parts)] * len(known.parts)
    if known.queries:
        shapes[name(known.queries)] = (4, 12)
        sizes = [12, *[12 // others] * others]
    names = BaseNames(shapes, known.models)
    rows: list[int] = []
    for (part, _), size in zip(known.parts, sizes, strict=True):
        runs = names.match(name(part), (size, 4)).places[0].runs
        rows += [run.at + row for run in runs for row in range(run.count)]
    assert rows == list(range(24))
