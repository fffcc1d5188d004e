"""Adapters in memory: made of tensors, or by verbs without an output, they are those of files."""

import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import loratools
from loratools import Adapter, ArgumentError, FormatError, OptionError, UnsupportedError

WEIGHTS = "adapter_model.safetensors"
KOHYA = {
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.randn(2, 6),
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.randn(4, 2),
}


@pytest.fixture
def plain(fixtures: Path) -> Path:
    return fixtures / "adapters" / "plain"


def tensors_of(adapter: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter / WEIGHTS if adapter.is_dir() else adapter)


def test_tensors_and_a_config_make_the_adapter_of_their_files(plain: Path, tmp_path: Path) -> None:
    config = json.loads((plain / "adapter_config.json").read_text())
    made = loratools.adapter_from_tensors(tensors_of(plain), config=config)
    opened = loratools.open_adapter(plain)
    assert list(made) == list(opened)
    for name, target in opened.items():
        assert torch.equal(made[name].update(), target.update())
    made.save(tmp_path / "saved")
    again = loratools.open_adapter(tmp_path / "saved")
    assert all(torch.equal(again[name].update(), opened[name].update()) for name in opened)


def test_arrays_of_numpy_are_tensors_too() -> None:
    arrays = {key: value.numpy() for key, value in KOHYA.items()}
    (one,) = loratools.adapter_from_tensors(arrays, alpha=1).values()
    (other,) = loratools.adapter_from_tensors(KOHYA, alpha=1).values()
    assert torch.equal(one.update(), other.update())


def test_an_alpha_is_that_of_all_updates() -> None:
    (target,) = loratools.adapter_from_tensors(KOHYA, alpha=3).values()
    assert (target.alpha, target.scaling) == (3.0, 1.5)


def test_an_alpha_that_is_stated_is_not_given_again() -> None:
    alpha = {"lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(1.0)}
    with pytest.raises(OptionError, match=r"its alpha is stated \(tensor\); leave alpha out"):
        loratools.adapter_from_tensors(KOHYA | alpha, alpha=3)


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        (
            {"a.lora_A.weight": [1.0]},
            OptionError,
            "a.lora_A.weight: a tensor is expected, not list",
        ),
        (
            {"q_proj": {"A": torch.ones(2, 2), "B": torch.ones(2, 2)}},
            OptionError,
            "q_proj: a tensor is expected, not dict; each factor has a key",
        ),
        ({1: torch.ones(2)}, OptionError, "the key of a tensor is text, not 1"),
        (
            {"a": np.array(["x"])},
            UnsupportedError,
            "a: an array of <U1, which torch does not know; ",
        ),
        (
            {"a": torch.ones(2, 2).to_sparse()},
            UnsupportedError,
            r"a sparse tensor; .* to_dense\(\)$",
        ),
        ({"a": torch.ones(2, device="meta")}, UnsupportedError, "meta, which has no values; load"),
        ({"a.alpha": 8.0}, OptionError, r"expected, not float; give torch.tensor\(8.0\)$"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, UnsupportedError, "complex128"),
    ],
)
def test_what_is_no_tensor_is_refused(
    tensors: dict[str, torch.Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        loratools.adapter_from_tensors(tensors)


@pytest.mark.parametrize(
    "changed",
    [
        lambda array: array.astype(">f4"),
        lambda array: np.ascontiguousarray(array[:, ::-1])[:, ::-1],
        lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
    ],
    ids=["of the other order of bytes", "backwards", "read only"],
)
@pytest.mark.filterwarnings("error")
def test_an_array_is_read_however_it_is_stored(changed: Callable[[np.ndarray], np.ndarray]) -> None:
    arrays = {key: np.ascontiguousarray(tensor.numpy()) for key, tensor in KOHYA.items()}
    stored = loratools.adapter_from_tensors({key: changed(one) for key, one in arrays.items()})
    for target, same in zip(
        stored.values(), loratools.adapter_from_tensors(arrays).values(), strict=True
    ):
        assert torch.equal(target.update(), same.update())


def test_a_config_without_a_type_is_answered_by_that_of_a_lora() -> None:
    with pytest.raises(UnsupportedError, match=r"has no peft_type, which is 'LORA' for a LoRA$"):
        loratools.adapter_from_tensors(
            {"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.ones(4, 2)},
            config={"r": 2, "lora_alpha": 16},
        )


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_a_sparse_tensor_is_refused_in_any_layout() -> None:
    for tensor in (torch.ones(2, 2).to_sparse_csr(), torch.ones(2, 2).to_sparse_csc()):
        with pytest.raises(UnsupportedError, match=r"a: a sparse tensor; give its to_dense\(\)$"):
            loratools.adapter_from_tensors({"a": tensor})


def test_an_alpha_is_finite() -> None:
    with pytest.raises(OptionError, match=r"^alpha is a finite number, not nan$"):
        loratools.adapter_from_tensors(KOHYA, alpha=math.nan)


def test_no_globs_of_what_to_take_are_refused_and_not_taken_for_all(
    plain: Path, fixtures: Path
) -> None:
    base = fixtures / "stories260k"
    with pytest.raises(OptionError, match=r"^only is an empty list; leave it out to take all$"):
        loratools.merge(base, plain, only=[])
    with pytest.raises(OptionError, match=r"^only is an empty list"):
        loratools.svd_extract(base, base, only=[])
    assert loratools.merge(base, plain, skip=[]).accounting.startswith("70 of 70")


VERBS: dict[str, tuple[Callable[[Adapter], Adapter], Callable[[Path, Path], object]]] = {
    "resize": (
        lambda adapter: loratools.resize(adapter, rank=3),
        lambda path, output: loratools.resize(path, rank=3, output=output),
    ),
    "rescale": (
        lambda adapter: loratools.rescale(adapter, strength=0.5),
        lambda path, output: loratools.rescale(path, strength=0.5, output=output),
    ),
    "combine": (
        lambda adapter: loratools.combine([(adapter, 0.25), adapter], method="ties", rank=4),
        lambda path, output: loratools.combine(
            [path, path], weights=[0.25, 1], method="ties", rank=4, output=output
        ),
    ),
    "convert": (
        lambda adapter: loratools.convert(adapter, to="mlx", base="fixtures/stories260k"),
        lambda path, output: loratools.convert(
            path, to="mlx", base="fixtures/stories260k", output=output
        ),
    ),
}


def assert_tells_the_same(in_memory: object, written: object) -> None:
    """The reports say the same, such as what is lost, but for the path of what was written."""
    *lines, last = str(written).splitlines()
    assert last.startswith("written: ")
    assert str(in_memory) == "\n".join(lines).rstrip()


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_in_memory_makes_what_it_writes(
    verb: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(plain.parents[2])
    in_memory, written = VERBS[verb]
    made = in_memory(loratools.open_adapter(plain))
    assert isinstance(made, Adapter)
    assert made.report is not None
    made.save(tmp_path / "saved")
    report = written(plain, tmp_path / "written")
    assert_tells_the_same(made.report, report)
    saved = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    assert saved == {path.name: path.read_bytes() for path in (tmp_path / "written").iterdir()}


def test_verbs_follow_each_other_in_memory(plain: Path, fixtures: Path, tmp_path: Path) -> None:
    """And a merge takes the result, without a file in between."""
    small = loratools.resize(loratools.rescale(plain, strength=2), rank=4)
    both = loratools.combine([(small, 0.5), (plain, 0.5)])
    base = fixtures / "stories260k"
    loratools.merge(base, both, output=tmp_path / "direct")
    both.save(tmp_path / "both")
    loratools.merge(base, tmp_path / "both", output=tmp_path / "by-file")
    merged = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("direct", "by-file")
    ]
    assert merged[0] == merged[1]


def test_pairs_are_adapters_with_their_weights(plain: Path, fixtures: Path, tmp_path: Path) -> None:
    base = fixtures / "stories260k"
    loratools.merge(base, (plain, 0.5), output=tmp_path / "pair")
    loratools.merge(base, [plain], weights=[0.5], output=tmp_path / "weights")
    with (
        safe_open(tmp_path / "pair/model.safetensors", "pt") as one,
        safe_open(tmp_path / "weights/model.safetensors", "pt") as other,
    ):
        assert all(torch.equal(one.get_tensor(k), other.get_tensor(k)) for k in one.keys())  # noqa: SIM118
    with pytest.raises(OptionError, match="give them once"):
        loratools.merge(base, [(plain, 0.5)], weights=[0.5])


def test_a_weight_that_is_written_in_a_name_is_answered_by_the_pair(
    plain: Path, tmp_path: Path
) -> None:
    for verb in (loratools.combine, partial(loratools.merge, "base"), partial(loratools.swap, "x")):
        with pytest.raises(OptionError, match=r"give the pair \('style', 0\.7\)$"):
            verb(["style:0.7"])
    with pytest.raises(FormatError, match="no such file"):  # which is not a weight
        loratools.combine(["style:new"])
    named = shutil.copytree(plain, tmp_path / "style:0.7")
    assert len(loratools.combine(str(named))) == 35


def test_how_to_read_an_adapter_that_is_open_is_refused(plain: Path) -> None:
    opened = loratools.open_adapter(plain)
    with pytest.raises(OptionError, match="is open already"):
        loratools.resize(opened, rank=2, dialect_options={"alpha": "1"})


def test_an_output_is_never_the_adapter_that_it_is_made_of(plain: Path) -> None:
    opened = loratools.open_adapter(plain)
    with pytest.raises(loratools.OutputError, match="input"):
        opened.save(plain, overwrite=True)
    with pytest.raises(loratools.OutputError, match="input"):
        loratools.resize(opened, rank=2, output=plain, overwrite=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"rank": 2, "rule": loratools.RankRule(rank=3)},
        {"rank": 2, "energy": 0.5},
        {"energy": 0.5, "size": 10_000},
    ],
)
def test_a_goal_is_given_once(plain: Path, arguments: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=r"once|both given"):
        loratools.resize(plain, **arguments)  # type: ignore[call-overload]


def test_an_adapter_extracted_in_memory_is_the_one_that_is_written(
    plain: Path, fixtures: Path, tmp_path: Path
) -> None:
    base = fixtures / "stories260k"
    loratools.merge(base, plain, output=tmp_path / "tuned")
    made = loratools.svd_extract(tmp_path / "tuned", base, rank=8, base_name="base")
    written = loratools.svd_extract(
        tmp_path / "tuned", base, rank=8, base_name="base", output=tmp_path / "written"
    )
    made.save(tmp_path / "saved")
    saved = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    assert saved == {path.name: path.read_bytes() for path in (tmp_path / "written").iterdir()}
    report = made.report
    assert_tells_the_same(report, written)
    assert isinstance(report, loratools.ExtractReport)
    assert report.output is None
    assert report.truncations


def test_a_swap_takes_opened_adapters_with_weights(
    plain: Path, fixtures: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(fixtures / "stories260k", model)
    half = loratools.rescale(plain, strength=0.5)
    loratools.swap(model, [(half, 2.0)])
    loratools.merge(fixtures / "stories260k", [(half, 2.0)], output=tmp_path / "merged")
    name = "model.safetensors"
    assert (model / name).read_bytes() == (tmp_path / "merged" / name).read_bytes()
    loratools.swap(model, [])
    assert (model / name).read_bytes() == (fixtures / "stories260k" / name).read_bytes()


def test_an_opened_adapter_is_inspected_as_its_files_are(plain: Path, fixtures: Path) -> None:
    base = fixtures / "stories260k"
    opened = loratools.open_adapter(plain)
    wanted = loratools.inspect(plain, base=base, spectrum=True).to_json()
    assert loratools.inspect(opened, base=base, spectrum=True).to_json() == wanted
    several = loratools.inspect([opened, plain, loratools.resize(opened, rank=2)])
    assert [row.verdict for row in several] == ["ok"] * 3
    assert [row.ranks for row in several] == [(8,), (8,), (2,)]


@pytest.mark.parametrize(
    "tensors",
    [[torch.ones(2, 3)], {"q": (torch.ones(3, 2), torch.ones(2, 3))}],
    ids=["list", "pair"],
)
def test_factors_without_keys_are_answered_by_how_keys_look(tensors: object) -> None:
    with pytest.raises(ArgumentError, match=r"q_proj\.lora_B\.weight for up"):
        loratools.adapter_from_tensors(tensors)  # type: ignore[arg-type]


def test_an_adapter_of_tensors_is_saved_under_its_own_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not read from there."""
    monkeypatch.chdir(tmp_path)
    made = loratools.adapter_from_tensors(KOHYA, alpha=1, name="made.safetensors")
    made.save("made.safetensors")
    made.save("made.safetensors", overwrite=True)
    assert "made.safetensors (in memory)" in repr(loratools.combine([made, made], rank=1))


def test_advice_in_python_is_in_the_words_of_python(
    fixtures: Path, plain: Path, tmp_path: Path
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "use overwrite=True to replace it": lambda: loratools.open_adapter(plain).save(tmp_path),
        "with base=, and the ranks to keep with rank=": lambda: loratools.combine(
            fixtures / "adapters/dora"
        ),
        "give the base first, as in merge": lambda: loratools.merge(plain, plain),
        "with rank=, energy=, error= or size=": lambda: loratools.combine(plain, method="ties"),
    }
    for advice, call in calls.items():
        with pytest.raises(loratools.LoratoolsError, match=advice):
            call()
