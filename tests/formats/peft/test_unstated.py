"""PEFT's keys in a file without a config: what is read, and what is said of the alpha."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import loratools
from loratools.errors import FormatError, ShapeMismatchError
from loratools.formats import decode
from loratools.io.source import Held
from tests.adapters import effects
from tests.formats.bundles import bundle, decoded, lora, notes
from tests.narrowing import present

MIXED = lora("model.q") | lora("model.v", rank=3)


@pytest.mark.parametrize("prefix", [True, False])
def test_alpha_that_nothing_states_is_the_rank_and_a_problem(prefix: bool) -> None:
    shapes = {
        key if prefix else key.removeprefix("base_model.model."): s for key, s in MIXED.items()
    }
    adapter = decode(bundle(shapes, None))
    assert list(adapter.updates) == ["model.q.weight", "model.v.weight"]
    scalings = [present(update.delta.scaling) for update in adapter.updates.values()]
    assert [(s.value, s.origin) for s in scalings] == [(1, "assumed"), (1, "assumed")]
    (problem,) = notes(adapter, "problem")
    assert "alpha: taken as the rank, a scaling of 1, which is a guess" in problem
    assert "config=" in problem
    assert "dialect_options={'alpha'" in problem


def test_given_alpha_is_divided_by_the_rank_of_each_module() -> None:
    adapter = decode(bundle(MIXED, None), {"alpha": "12"})
    scalings = [present(update.delta.scaling) for update in adapter.updates.values()]
    assert [(s.value, s.origin) for s in scalings] == [(6, "option"), (4, "option")]
    assert notes(adapter, "problem") == []
    assert any("alpha is 12, as given" in note for note in notes(adapter, "info"))


def test_alpha_as_a_tensor_counts_more_than_a_given_one() -> None:
    """A file that says the alpha of a module needs no guess, and no option."""
    shapes = {key.removeprefix("base_model.model."): shape for key, shape in MIXED.items()}
    files = bundle(shapes, None)
    alpha = Held("model.q.alpha", torch.tensor(4.0), "F32")
    for options, value, origin in (({}, 1, "assumed"), ({"alpha": "12"}, 4, "option")):
        adapter = decode(replace(files, tensors={**files.tensors, alpha.key: alpha}), options)
        scalings = [present(update.delta.scaling) for update in adapter.updates.values()]
        assert [(s.value, s.origin) for s in scalings] == [(2, "tensor"), (value, origin)]
        assert adapter.replaced == {}
    for key in ("model.v.lora_A.weight", "model.v.lora_B.weight"):
        shapes.pop(key)
    files = bundle(shapes, None)
    adapter = decode(replace(files, tensors={**files.tensors, alpha.key: alpha}))
    assert notes(adapter, "problem") == []


def test_factor_that_is_a_number_is_refused_by_its_shape() -> None:
    with pytest.raises(ShapeMismatchError, match=r"q.*\[\].*"):
        decode(bundle({"q.lora_A.weight": (), "q.lora_B.weight": ()}, None))


def test_config_counts_more_than_a_given_alpha() -> None:
    adapter = decoded(lora("q"), {"alpha": "12"}, lora_alpha=4)
    assert [present(u.delta.scaling).alpha for u in adapter.updates.values()] == [4]
    (note,) = notes(adapter, "info")
    assert note.startswith("alpha 12 is not used: the files say the alpha; the strength of an")


def test_magnitudes_need_no_config_to_be_those_of_a_dora() -> None:
    shapes = lora("q") | {"base_model.model.q.lora_magnitude_vector": (4,)}
    assert decode(bundle(shapes, None)).kinds == ("DoRA",)


def test_whole_tensors_alone_are_no_adapter_without_a_config() -> None:
    with pytest.raises(FormatError, match=r"here: no adapter_config.json .* no factors of a LoRA"):
        decode(bundle({"base_model.model.score.weight": (2, 2)}, None))


def test_file_without_a_config_is_written_with_one(tmp_path: Path) -> None:
    files = bundle(MIXED, None)
    file = tmp_path / "bare.safetensors"
    save_file({key: source.read() for key, source in files.tensors.items()}, file)
    loratools.rescale(file, output=tmp_path / "written", rescaling=loratools.Rescaling(alpha=12))
    written = loratools.open_adapter(tmp_path / "written")
    given = decode(files, {"alpha": "12"})
    assert notes(written, "problem") == []
    for target, effect in effects(given).items():
        torch.testing.assert_close(effects(written)[target], effect, rtol=0, atol=0)
