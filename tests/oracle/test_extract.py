"""An extracted adapter in PEFT: no key is missing or unexpected, and the model is the tuned one."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.oracles import WARNED, oracle

oracle("peft")

from peft import PeftModel  # noqa: E402
from transformers import AutoModel, AutoModelForCausalLM  # noqa: E402
from transformers.utils import logging  # noqa: E402

import loratools  # noqa: E402
from loratools.extracting.plan import ExtractOptions  # noqa: E402
from loratools.extracting.svd_extract import svd_extract  # noqa: E402
from loratools.lowrank.ranks import RankRule  # noqa: E402

pytestmark = [pytest.mark.oracle, *WARNED]

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
LOSSLESS = RankRule(energy=1.0)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def tune(base: str, output: Path, change: Callable[[str, Tensor], Tensor | None]) -> Path:
    """The base with some tensors changed; a head that repeats its embedding is left out."""
    shutil.copytree(FIXTURES / base, output)
    tensors = load_file(output / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    for name, weight in tensors.items():
        changed = change(name, weight)
        tensors[name] = weight if changed is None else changed
    save_file(tensors, output / "model.safetensors", {"format": "pt"})
    return output


def shaken(name: str, weight: Tensor) -> Tensor:
    """Everything is changed a little, matrices by a rank of 3."""
    generator = torch.Generator().manual_seed(len(name) * weight.numel())
    if weight.dim() < 2:
        return weight + 0.1 * torch.randn(weight.shape, generator=generator)
    up = torch.randn(weight.shape[0], 3, generator=generator)
    down = torch.randn(3, weight.shape[1], generator=generator)
    return weight + 0.1 * weight.std() * up @ down


def load(folder: Path) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def in_peft(base: nn.Module, adapter: Path) -> nn.Module:
    """PEFT's model, which took every key of the adapter and found all it wanted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        model = PeftModel.from_pretrained(base, adapter)
    found = model.load_adapter(adapter, "default")
    assert found.missing_keys == []
    assert found.unexpected_keys == []
    loaded: nn.Module = model.eval()
    return loaded


@torch.no_grad()
def logits(model: nn.Module, vocabulary: int = 128) -> Tensor:
    result: Tensor = model(torch.arange(vocabulary).reshape(8, -1)).logits
    return result


def assert_same(adapted: nn.Module, tuned: Path, vocabulary: int = 128) -> None:
    """Both compute in float32 and in other orders: some hundred operations of 2^-24 each."""
    expected = logits(load(tuned), vocabulary)
    torch.testing.assert_close(
        logits(adapted, vocabulary), expected, rtol=0, atol=2e-5 * expected.abs().max().item()
    )


@pytest.mark.parametrize("base", ["stories260k", "tiny-gpt2"])
def test_everything_that_changed_is_there(base: str, tmp_path: Path) -> None:
    tuned = tune(base, tmp_path / "tuned", shaken)
    svd_extract(tuned, FIXTURES / base, output=tmp_path / "adapter", rule=LOSSLESS, check=True)
    assert_same(in_peft(load(FIXTURES / base), tmp_path / "adapter"), tuned)


@pytest.mark.parametrize(
    ("base", "part"),
    [
        ("stories260k", "norm"),
        ("stories260k", "self_attn"),
        ("stories260k", "embed"),
        *(("tiny-gpt2", part) for part in ("ln_", "bias", "attn", "wte", "wpe", "c_proj.weight")),
    ],
)
def test_every_kind_of_tensor_alone(base: str, part: str, tmp_path: Path) -> None:
    tuned = tune(
        base,
        tmp_path / "tuned",
        lambda name, weight: shaken(name, weight) if part in name else None,
    )
    svd_extract(tuned, FIXTURES / base, output=tmp_path / "adapter", rule=LOSSLESS)
    assert_same(in_peft(load(FIXTURES / base), tmp_path / "adapter"), tuned)


@pytest.mark.parametrize("globs", [("*embed_tokens*",), ("*q_proj*", "*norm*")])
def test_modules_stored_whole(globs: tuple[str, ...], tmp_path: Path) -> None:
    base = FIXTURES / "stories260k"
    tuned = tune("stories260k", tmp_path / "tuned", shaken)
    options = ExtractOptions(full=globs)
    svd_extract(tuned, base, output=tmp_path / "adapter", rule=LOSSLESS, options=options)
    assert_same(in_peft(load(base), tmp_path / "adapter"), tuned)


def merged(adapted: nn.Module) -> nn.Module:
    """PEFT's own merge, which warns of ends that were tied."""
    model: Any = adapted
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")
        warnings.filterwarnings("ignore", message="Model with `tie_word_embeddings=True`")
        result: nn.Module = model.merge_and_unload()
    return result.eval()


def test_update_of_tied_ends_is_right_unmerged_and_what_peft_merges_twice_is_told(
    tmp_path: Path,
) -> None:
    """Should PEFT's merge be right one day, the difference below vanishes, and so may the notes."""
    base, adapter = FIXTURES / "stories260k", tmp_path / "adapter"
    tuned = tune(
        "stories260k", tmp_path / "tuned", lambda n, w: shaken(n, w) if "embed" in n else w
    )
    report = svd_extract(tuned, base, output=adapter, rule=LOSSLESS)
    assert_same(in_peft(load(base), adapter), tuned)
    loratools.merge(base, adapter, output=tmp_path / "merged")
    assert_same(load(tmp_path / "merged"), tuned)
    wrong = logits(merged(in_peft(load(base), adapter)))
    assert float((wrong - logits(load(tuned))).abs().max()) > 0.1
    (note,) = report.notes
    assert "model.embed_tokens.weight and lm_head.weight are one tensor" in note
    assert "merge_and_unload" in note
    assert note in report.to_json()["notes"]
    for beside, severity in ((None, "info"), (base, "problem")):
        notes = loratools.inspect(adapter, base=beside, spectrum=True).notes
        assert [n.severity for n in notes if "merge_and_unload" in n.message] == [severity]


def test_tied_ends_stored_whole_are_right_in_every_reader(tmp_path: Path) -> None:
    base, adapter = FIXTURES / "stories260k", tmp_path / "adapter"
    tuned = tune("stories260k", tmp_path / "tuned", shaken)
    options = ExtractOptions(full=("model.embed_tokens.weight",))
    report = svd_extract(tuned, base, output=adapter, rule=LOSSLESS, options=options)
    assert report.notes == ()
    assert_same(in_peft(load(base), adapter), tuned)
    assert_same(merged(in_peft(load(base), adapter)), tuned)
    loratools.merge(base, adapter, output=tmp_path / "merged")
    assert_same(load(tmp_path / "merged"), tuned)
    notes = loratools.inspect(adapter, base=base, spectrum=True).notes
    assert not [note for note in notes if "merge_and_unload" in note.message]


def test_a_grown_vocabulary(tmp_path: Path) -> None:
    base = FIXTURES / "stories260k"

    def grown(name: str, weight: Tensor) -> Tensor | None:
        more = torch.cat([weight, weight[:8] + 0.1]) if "embed" in name else weight
        return shaken(name, more)

    tuned = tune("stories260k", tmp_path / "tuned", grown)
    config = json.loads((tuned / "config.json").read_text())
    (tuned / "config.json").write_text(json.dumps({**config, "vocab_size": 520}))
    svd_extract(tuned, base, output=tmp_path / "adapter", rule=LOSSLESS, check=True)
    resized: Any = load(base)
    resized.resize_token_embeddings(520)
    assert_same(in_peft(resized, tmp_path / "adapter"), tuned, 520)


def test_update_in_peft_is_the_product_of_the_stored_factors(tmp_path: Path) -> None:
    base = FIXTURES / "tiny-gpt2"
    tuned = tune("tiny-gpt2", tmp_path / "tuned", shaken)
    svd_extract(tuned, base, output=tmp_path / "adapter", rule=RankRule(rank=2))
    before = load_file(base / "model.safetensors")
    after = load_file(tuned / "model.safetensors")
    model = in_peft(load(base), tmp_path / "adapter")
    module: Any = model.get_submodule("base_model.model.transformer.h.0.attn.c_attn")
    name = "transformer.h.0.attn.c_attn.weight"
    u, s, vh = torch.linalg.svd(after[name].double() - before[name].double())
    best = (u[:, :2] * s[:2]) @ vh[:2]
    found = module.get_delta_weight("default").double()
    torch.testing.assert_close(found, best, rtol=0, atol=1e-6 * s[0].item())


def test_a_model_without_a_head_whose_last_norm_ends_the_names_of_others(tmp_path: Path) -> None:
    """PEFT saves every module whose name ends in `norm`; all of them are in the file."""
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    config = json.loads((FIXTURES / "stories260k/config.json").read_text())
    tensors = load_file(FIXTURES / "stories260k/model.safetensors")
    bare = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    for folder, found in ((base, bare), (tuned, {n: shaken(n, t) for n, t in bare.items()})):
        folder.mkdir()
        save_file(found, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaModel"]}))
    svd_extract(tuned, base, output=tmp_path / "adapter", rule=LOSSLESS, check=True)
    tokens = torch.arange(128).reshape(8, -1)
    with torch.no_grad():
        adapted = in_peft(AutoModel.from_pretrained(base), tmp_path / "adapter")
        found = adapted(tokens).last_hidden_state
        expected = AutoModel.from_pretrained(tuned).eval()(tokens).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def test_convolutions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = nn.ModuleDict({"conv": nn.Conv2d(4, 6, 3), "line": nn.Conv1d(4, 6, 3)})
    before = base.state_dict()
    for name, weights in (("base", before), ("tuned", before)):
        (tmp_path / name).mkdir()
        after = {
            n: w + 0.1 * torch.randn(w.shape) if name == "tuned" else w for n, w in weights.items()
        }
        save_file(after, tmp_path / name / "model.safetensors")
    svd_extract(tmp_path / "tuned", tmp_path / "base", output=tmp_path / "out", rule=LOSSLESS)
    model: Any = in_peft(base, tmp_path / "out")
    merged = model.merge_and_unload().state_dict()
    expected = load_file(tmp_path / "tuned" / "model.safetensors")
    for name, weight in expected.items():
        torch.testing.assert_close(merged[name], weight, rtol=0, atol=1e-6)
