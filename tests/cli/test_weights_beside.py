"""Weights beside an adapter are named: they may be trained with it, and nothing applies them."""

import json
import shutil
from pathlib import Path

import pytest

import loratools
from tests.e2e.commands import run_here
from tests.verbs import RESHAPING

BESIDE = (
    "non_lora_trainables.bin", "new_embeddings.safetensors", "value_head.safetensors",
    "value_head.bin", "v_head.pt", "additional_weights.pt", "mm_projector.bin", "embed_tokens.pt",
    "lm_head.pt", "pytorch_lora_weights.safetensors", "model.safetensors", "pytorch_model.bin",
    "learned_embeds.ckpt", "weights.npz", "ema_optimizer.safetensors",
    "2_Dense/model.safetensors", "projector/adapter_model.bin",
)  # fmt: skip
NOT_BESIDE = (
    "optimizer.pt", "optimizer.bin", "optimizer_0/x.distcp", "scheduler.pt", "scaler.pt",
    "rng_state.pth", "rng_state_0.pth", "random_states_0.pkl", "training_args.bin",
    "global_step500/mp_rank_00_model_states.pt", "checkpoint-500/adapter_model.safetensors",
    "checkpoint-500/value_head.bin", "adapter_model.bin", "adapter_model.gguf",
    "adapter_model-00001-of-00002.bin", "0000100_adapters.safetensors", ".cache/x.bin",
    "tokenizer.model", "label_encoder.pkl", "README.md", "a/b/deep.bin",
    "converted-f16.gguf", "model.onnx", "pytorch_model_fsdp_0/__0_0.distcp",
    "pytorch_model_fsdp.bin", "dl_state_dict.bin", "wandb/model.pt", "eva_state_dict.bin",
)  # fmt: skip


@pytest.fixture
def adapter(fixtures: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(fixtures / "adapters/plain" / name, folder)
    return folder


def put(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


@pytest.mark.parametrize("name", BESIDE)
def test_weights_beside_an_adapter_are_a_problem(adapter: Path, name: str) -> None:
    put(adapter, name)
    for path in (adapter, adapter / "adapter_model.safetensors"):
        found = loratools.inspect(path)
        assert found.to_json()["weights_beside"] == [name]
        assert not found.is_sound
    (note,) = found.notes
    assert note.message == f"other weights are in its folder, and are not applied: {name}"


@pytest.mark.parametrize("name", NOT_BESIDE)
def test_what_is_no_other_weight_is_no_problem(adapter: Path, name: str) -> None:
    put(adapter, name)
    found = loratools.inspect(adapter)
    assert found.to_json()["weights_beside"] == []
    assert found.is_sound


def test_other_adapters_have_folders_of_their_own(adapter: Path) -> None:
    shutil.copytree(adapter, adapter / "critic")
    put(adapter, "critic/value_head.bin")
    assert loratools.inspect(adapter).is_sound
    assert loratools.inspect(adapter / "critic").adapter.beside == ("value_head.bin",)


def test_a_base_that_was_pulled_with_the_adapter_is_its_own(adapter: Path, fixtures: Path) -> None:
    shutil.copytree(fixtures / "stories260k", adapter / "base")
    assert loratools.inspect(adapter).is_sound


def test_a_file_by_itself_has_nothing_beside_it(fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / "kohya/sd15-locon"
    file = source if source.is_file() else next(source.glob("*.safetensors"))
    for name in ("one.safetensors", "two.safetensors"):
        shutil.copy(file, tmp_path / name)
    assert loratools.inspect(tmp_path / "one.safetensors").adapter.beside == ()


def test_check_fails_on_weights_beside_and_names_them(
    adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(adapter, "value_head.bin")
    result = run_here(capsys, "inspect", "--check", adapter)
    assert result.code == 3
    assert "Problem: other weights are in its folder" in result.out
    assert "value_head.bin" in result.out


def test_a_merge_names_weights_beside_in_output_and_report(
    adapter: Path, fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(adapter, "value_head.bin")
    arguments = ["merge", fixtures / "stories260k", adapter, "--dry-run"]
    said = f"{adapter}: other weights are in its folder, and are not applied: value_head.bin"
    assert f"Note: {said}" in run_here(capsys, *arguments).err
    report = json.loads(run_here(capsys, *arguments, "--json").out)
    assert report["adapters"][0]["notes"][0]["severity"] == "problem"
    assert "value_head.bin" in report["adapters"][0]["notes"][0]["message"]
    with_it, without = tmp_path / "with", tmp_path / "without"
    loratools.merge(fixtures / "stories260k", adapter, output=with_it)
    loratools.merge(fixtures / "stories260k", fixtures / "adapters/plain", output=without)
    model = "model.safetensors"
    assert (with_it / model).read_bytes() == (without / model).read_bytes(), "never applied"
    assert not (with_it / "value_head.bin").exists()


@pytest.mark.parametrize("verb", RESHAPING)
def test_verbs_that_write_adapters_name_weights_that_they_leave_behind(
    adapter: Path, tmp_path: Path, verb: str
) -> None:
    put(adapter, "value_head.bin")
    output = tmp_path / "out"
    notes = RESHAPING[verb](None, adapter, adapter, output).notes
    assert any("not applied: value_head.bin" in note for note in notes)
    assert not (output / "value_head.bin").exists()


@pytest.mark.parametrize("verb", RESHAPING)
def test_verbs_that_write_adapters_say_what_is_a_problem_of_their_input(
    adapter: Path, tmp_path: Path, verb: str
) -> None:
    """A head that is lost is not found again in what is made of the rest."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": "SEQ_CLS"}))
    notes = RESHAPING[verb](None, adapter, adapter, tmp_path / "out").notes
    assert any("task_type is SEQ_CLS, and no head is stored" in note for note in notes)
