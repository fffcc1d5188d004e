"""Whole tensors of adapters: kept where they agree, decided by a policy where they do not."""

import pytest
import torch

from loratools.errors import FormatError, UnsupportedError
from loratools.io.source import Held
from loratools.parts import Copy, ReplacedRows
from loratools.reshaping.agreement import Policy, agree
from tests.reshaping.adapters import adapter, lora, whole


def test_trained_tensor_of_some_adapters_only_is_refused_or_decided() -> None:
    one, other = adapter({"q": lora(0)}, replaced={"head": whole([1.0])}), adapter({"q": lora(0)})
    with pytest.raises(UnsupportedError, match=r"head: .* is in some of the adapters only"):
        agree([one, other], "refuse")
    for policy in ("first", "average"):
        found = agree([other, one], policy)
        assert found.replaced["head"].source.read().tolist() == [1]
        assert found.replaced["head"].is_trained


def test_tensor_of_the_base_may_be_stored_by_some_only() -> None:
    one = adapter({"q": lora(0)}, replaced={"embed": whole([1.0], trained=False)})
    found = agree([adapter({"q": lora(0)}), one], "refuse")
    assert not found.replaced["embed"].is_trained
    assert found.notes == ()


def test_average_is_in_float64_and_rounded_once() -> None:
    """1 and 1 + 2⁻²³ of float32: the mean is a tie, which goes to the even 1."""
    one = adapter({"q": lora(0)}, replaced={"head": whole([1.0])})
    other = adapter({"q": lora(0)}, replaced={"head": whole([1.0 + 2**-23])})
    assert agree([one, other], "average").replaced["head"].source.read().tolist() == [1]


def test_average_of_different_shapes_is_refused() -> None:
    one = adapter({"q": lora(0)}, replaced={"head": whole([1.0])})
    other = adapter({"q": lora(0)}, replaced={"head": whole([1.0, 2.0])})
    with pytest.raises(UnsupportedError, match="head: has different shapes, and no average"):
        agree([one, other], "average")
    assert agree([one, other], "first").replaced["head"].source.read().tolist() == [1]


@pytest.mark.parametrize("policy", ["refuse", "first", "average"])
@pytest.mark.parametrize("is_update", [True, False])
def test_rows_of_what_another_adapter_trains_whole_are_refused(
    policy: Policy, is_update: bool
) -> None:
    rows = {"embed": ReplacedRows((1,), Held("rows", torch.ones(1, 2), "F32"))}
    one = adapter({"q": lora(0)}, rows=rows, where="one")
    other = (
        adapter({"embed": lora(0)}, where="two")
        if is_update
        else adapter({"q": lora(0)}, replaced={"embed": whole([1.0])}, where="two")
    )
    for both in ([one, other], [other, one]):
        with pytest.raises(UnsupportedError, match="embed: one trains rows of what two trains"):
            agree(both, policy)


def test_copies_have_to_be_copies() -> None:
    from dataclasses import replace

    source, same = Held("a", torch.ones(2), "F32"), Held("b", torch.ones(2), "F32")
    one = replace(adapter({"q": lora(0)}), copies=(Copy(same, source),), inert={"c": "unused"})
    assert agree([one], "refuse").notes == ("one: left out, without effect: c, b",)
    other = Held("b", torch.zeros(2), "F32")
    with pytest.raises(FormatError, match="b and a should be the same and are not"):
        agree([replace(one, copies=(Copy(other, source),))], "refuse")
