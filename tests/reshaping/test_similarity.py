"""Angles and signs between adapters, against dense matrices in float64."""

import pytest
import torch

from loratools.reshaping.similarity import measure_similarity
from tests.reshaping.adapters import adapter, bias, dense, lora


def test_groups_have_the_products_of_their_targets_added() -> None:
    names = [f"layers.{n}.q.weight" for n in range(3)]
    one = adapter({name: lora(n, alpha=2.0 + 3 * n) for n, name in enumerate(names)})
    other = adapter({name: lora(9 + n, alpha=5.0 - 4 * n) for n, name in enumerate(names)})
    found = measure_similarity([one, other], one)
    (angles,) = found.groups.values()
    assert angles.count == 3
    pairs = [(dense(one.updates[n].delta), dense(other.updates[n].delta)) for n in names]
    product = sum((a * b).sum().item() for a, b in pairs)
    norms = [sum(pair[i].square().sum().item() for pair in pairs) ** 0.5 for i in (0, 1)]
    assert angles.cosine(0, 1) == pytest.approx(product / (norms[0] * norms[1]), abs=1e-12)
    assert angles.cosine(0, 2) == pytest.approx(1, abs=1e-12)
    assert found.to_json()[0]["count"] == 3


def test_adapter_without_the_target_has_no_angle_with_the_others() -> None:
    one, other = adapter({"q.weight": lora(0)}), adapter({"k.weight": lora(1)})
    total = measure_similarity([one, other], one).groups["q.weight"]
    assert total.cosine(0, 1) is None
    assert total.conflict(0, 1) is None
    assert total.cosine(0, 2) == pytest.approx(1)


def test_signs_are_those_of_evenly_spread_rows() -> None:
    """Of 100 rows 16 are looked at, from the first to the last."""
    one = adapter({"q": lora(0, (100, 30))})
    other = adapter({"q": lora(1, (100, 30), rank=3, alpha=-1.0)})
    found = measure_similarity([one, other], one).total
    assert found is not None
    rows = torch.linspace(0, 99, 16).round().long()
    a, b = (dense(each.updates["q"].delta)[rows] for each in (one, other))
    assert found.conflict(0, 1) == pytest.approx((a * b < 0).double().mean().item())
    assert found.compared[0, 1] == 16 * 30


def test_vectors_are_not_compared() -> None:
    one = adapter({"b": bias(1, 2)})
    assert measure_similarity([one], one).total is None
