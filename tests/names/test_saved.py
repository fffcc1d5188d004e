"""Modules that PEFT saves whole are found by the ends of their names."""

import pytest

from loratools.names.saved import SavedNames


@pytest.mark.parametrize(
    ("parameter", "module", "inside"),
    [
        ("model.norm.weight", "norm", True),
        ("model.input_layernorm.weight", "norm", True),  # PEFT asks how names end, dots or not
        ("model.norm.weight", "model.norm", True),
        ("head.dense.weight", "head", True),
        ("model.norm.weight", "orm.weight", False),
        ("norm", "norm", False),
        ("model.normal.weight", "norm", False),
    ],
)
def test_module_is_recognised_by_the_end_of_its_name(
    parameter: str, module: str, inside: bool
) -> None:
    names = SavedNames(["other", module])
    assert list(names.holding(parameter)) == [module] * inside
    assert names.hold(parameter) is inside
