"""Adapters that PEFT trained: their norms as PEFT found them, and what the merged model computes.

The merged folder is loaded by transformers, and compared with the base under the unmerged adapter:
PEFT's forward, which is right where its merge is not, on tied embeddings.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.adapters import lora_of
from tests.merged import read_json
from tests.narrowing import present
from tests.oracles import WARNED, oracle

oracle("peft")

from peft import LoraConfig, PeftModel  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel  # noqa: E402
from transformers.utils import logging  # noqa: E402

import loratools  # noqa: E402
from loratools.deltas.diff import Diff  # noqa: E402

pytestmark = [pytest.mark.oracle, *WARNED]

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
ADAPTERS = sorted(path.name for path in (FIXTURES / "adapters").iterdir())
GROWN = ("embedding-vocab", "embedding-lora-resized")
#: What PEFT's merge changes although its forward does not: the other end of a tied embedding.
WRONGLY_CHANGED = {
    "dora": {"lm_head.weight"},
    "embedding-lora-resized": {"lm_head.weight"},
    "lm-head": {"model.embed_tokens.weight"},
}
UNTIED = {*WRONGLY_CHANGED, "embedding-vocab"}


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def base_of(adapter: Path) -> Path:
    return FIXTURES / str(read_json(adapter / "SOURCE.json")["base"])


def load(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    model.eval()
    return model


def vocabulary_of(model: PreTrainedModel) -> int:
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    return table.num_embeddings


@torch.no_grad()
def logits(model: nn.Module, vocabulary: int) -> Tensor:
    """Of every token, so that every row of an embedding counts."""
    result: Tensor = model(torch.arange(vocabulary).reshape(8, -1)).logits
    return result


@pytest.mark.parametrize("name", ADAPTERS)
def test_update_norms_are_those_that_peft_found(name: str) -> None:
    """Both are computed in float64, where no sum of squares is off by more than 2^-40."""
    folder = FIXTURES / "adapters" / name
    adapter = loratools.open_adapter(folder)
    norms = {}
    for target, update in adapter.updates.items():
        if isinstance(update.delta, Diff):
            continue
        lora = lora_of(update)
        matrix = lora.up.read().double() @ lora.down.read().double()
        norms[target.removesuffix(".weight")] = float(matrix.norm()) * lora.scaling.value
    expected = read_json(folder / "expected.json")["delta_norms"]
    assert norms == pytest.approx(expected, rel=2.0**-40)


@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_weights_change_by_the_norms_that_peft_found(name: str, tmp_path: Path) -> None:
    """A float32 is at most 2^-24 off, so the norm of a difference is off by 2^-24 of the weight's.

    Only rows that the base has are compared, as PEFT's norms are.
    """
    folder = FIXTURES / "adapters" / name
    merged = tmp_path / "merged"
    report = loratools.merge(base_of(folder), folder, output=merged)
    expected = read_json(folder / "expected.json")
    assert report.plan.accounting.total == expected["tensors"]
    before = load_file(base_of(folder) / "model.safetensors")
    after = load_file(merged / "model.safetensors")
    changes = dict(expected["merged_change_norms"])
    for wrong in WRONGLY_CHANGED.get(name, ()):
        changes.pop(wrong)
    for tensor, weight in after.items():
        was = present(before.get(tensor, before.get("model.embed_tokens.weight"))).double()
        change = float((weight[: len(was)].double() - was).norm())
        allowed = float(weight.double().norm()) * 2.0**-24
        assert abs(change - changes.pop(tensor, 0.0)) <= allowed, tensor
    assert set(changes) <= {"lm_head.weight"}  # tied, and not stored


@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_model_computes_what_the_adapter_computes(name: str, tmp_path: Path) -> None:
    """Logits are equal but for float32: sums of up to 172 terms in each of 7 weights a layer, five
    layers deep. Their errors, 2^-24 each, are independent: √(172 · 7 · 5) · 2^-24 of the largest
    logit, and four times that, as there are 300,000 logits. The update itself moves one by 1000
    times as much.
    """
    folder = FIXTURES / "adapters" / name
    loratools.merge(base_of(folder), folder, output=tmp_path / "merged")
    base, merged = load(base_of(folder)), load(tmp_path / "merged")
    known = vocabulary_of(base)
    unchanged = logits(base, known)
    if name in GROWN:
        base.resize_token_embeddings(520)
    size = vocabulary_of(base)
    expected = logits(PeftModel.from_pretrained(base, folder).eval(), size)
    allowed = 4 * (172 * 7 * 5) ** 0.5 * 2.0**-24 * float(expected.abs().max())
    assert float((logits(merged, size) - expected).abs().max()) <= allowed
    assert float((logits(merged, known)[..., :known] - unchanged).abs().max()) > 1000 * allowed


@pytest.mark.parametrize("name", ADAPTERS)
def test_config_says_whether_embedding_and_head_still_are_one(name: str, tmp_path: Path) -> None:
    folder = FIXTURES / "adapters" / name
    merged = tmp_path / "merged"
    loratools.merge(base_of(folder), folder, output=merged)
    before, after = read_json(base_of(folder) / "config.json"), read_json(merged / "config.json")
    corrections: dict[str, Any] = {}
    if name in UNTIED:
        corrections["tie_word_embeddings"] = False
    if name in GROWN:
        corrections["vocab_size"] = 520
    assert after == before | corrections
    assert ("lm_head.weight" in load_file(merged / "model.safetensors")) == (
        name in UNTIED or "lm_head.weight" in load_file(base_of(folder) / "model.safetensors")
    )


@pytest.mark.parametrize("name", GROWN)
def test_tokenizer_comes_from_the_adapter_that_grew_it(name: str, tmp_path: Path) -> None:
    folder = FIXTURES / "adapters" / name
    merged = tmp_path / "merged"
    loratools.merge(base_of(folder), folder, output=merged)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (merged / file).read_bytes() == (folder / file).read_bytes()
    assert len(AutoTokenizer.from_pretrained(merged)) == 520


def test_tokenizer_stays_the_bases_where_the_adapter_has_none(tmp_path: Path) -> None:
    base = FIXTURES / "stories260k"
    loratools.merge(base, FIXTURES / "adapters" / "plain", output=tmp_path / "merged")
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "merged" / file).read_bytes() == (base / file).read_bytes()


@pytest.mark.parametrize("name", [name for name in ADAPTERS if not name.startswith("gpt2")])
def test_a_sharded_bfloat16_base_gives_the_same_model(name: str, tmp_path: Path) -> None:
    """That base is the other one rounded, and the merge rounds once more, each by 2^-8 at most."""
    folder = FIXTURES / "adapters" / name
    loratools.merge(base_of(folder), folder, output=tmp_path / "float")
    loratools.merge(FIXTURES / "stories260k-bf16-sharded", folder, output=tmp_path / "half")
    one, other = load(tmp_path / "float").state_dict(), load(tmp_path / "half").state_dict()
    assert one.keys() == other.keys()
    for tensor, weight in one.items():
        half = other[tensor]
        assert half.dtype == torch.bfloat16
        largest = float(torch.maximum(weight.abs(), half.float().abs()).max())
        assert float((half.float() - weight).abs().max()) <= 2 * 2.0**-8 * largest, tensor


def test_an_adapter_that_transformers_writes_in_several_files_is_read_whole(
    tmp_path: Path,
) -> None:
    """Its index has the name of a model's, and PEFT itself does not read such a folder."""
    base = FIXTURES / "stories260k"
    model = load(base)
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.02)
    for name, limit in (("one", "1GB"), ("several", "8KB")):
        model.save_pretrained(tmp_path / name, max_shard_size=limit)
        loratools.merge(base, tmp_path / name, output=tmp_path / f"merged-{name}")
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 1
    one, several = (
        load_file(tmp_path / f"merged-{n}/model.safetensors") for n in ("one", "several")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(several[name], tensor, rtol=0, atol=0)
