"""Which dialect a file is in, and what is said of those that cannot be read."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import loratools
from loratools import registry
from loratools.errors import UnsupportedError
from loratools.formats import decode
from tests.formats.bundles import bundle


@pytest.mark.parametrize(
    ("key", "appearance"),
    [
        ("diffusion_model.mid.lokr_w1", "a LyCORIS adapter"),
        ("diffusion_model.mid.lokr_w2_a", "a LyCORIS adapter"),
        ("diffusion_model.mid.hada_w1_b", "a LyCORIS adapter"),
        ("unet.down_blocks.0.attn1.to_q.lora.down.weight", "a diffusers LoRA"),
        ("unet.attn1.processor.to_q_lora.up.weight", "a diffusers LoRA"),
        ("layers.0.self_attn.q_proj.lora_a", "an MLX LoRA"),
        ("unet:0:up", "a cloneofsimo LoRA"),
        ("w_a_000", r"a SAM LoRA \(Sam_LoRA\)"),
        ("blocks.0.attn.lora_down.weight", "a LoRA in a dialect of its own"),
    ],
)
def test_dialect_known_by_sight_is_named(key: str, appearance: str) -> None:
    with pytest.raises(UnsupportedError, match=f"here: looks like {appearance}, which cannot be"):
        decode(bundle({key: (2, 2)}, None))


def test_dialect_with_a_file_of_its_own_is_not_said_to_be_unreadable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "names", lambda _: ("mlx", "peft"))
    monkeypatch.setattr(registry, "load", lambda *_: SimpleNamespace(recognises=lambda _: False))
    with pytest.raises(UnsupportedError, match=r"not an adapter of a known kind .*reads mlx, peft"):
        decode(bundle({"layers.0.q.lora_a": (2, 2)}, None))


def test_what_is_no_adapter_is_shown_by_its_keys() -> None:
    with pytest.raises(UnsupportedError, match=r"not an adapter .*holds a.weight, b, c and 1 more"):
        decode(bundle({"a.weight": (2,), "b": (2,), "c": (2,), "d": (2,)}, None))


def test_file_without_tensors_says_so() -> None:
    with pytest.raises(UnsupportedError, match="here: holds no tensors"):
        decode(bundle({}, None))


@pytest.mark.parametrize(
    ("folder", "updates", "replaced"),
    [
        ("distilgpt2-cattn-niket", 6, []),
        ("bloom560m-mergedlinear-bin", 24, []),
        ("privacyfilter-moe-tokcls-r16", 32, ["score.bias", "score.weight"]),
    ],
)
def test_published_adapter_is_read_whole(
    fixtures: Path, folder: str, updates: int, replaced: list[str]
) -> None:
    adapter = loratools.open_adapter(fixtures / "real" / folder, allow_pickle=True)
    assert len(adapter.updates) == updates
    assert list(adapter.replaced) == replaced
    assert not [note for note in adapter.notes if note.severity != "info"]


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("not-an-adapter-smolvla-bin", "not an adapter of a known kind"),
        ("sam-vitb-lora-r2", "looks like a SAM LoRA"),
        ("sd15-cloneofsimo-disney-r1", "looks like a cloneofsimo LoRA"),
    ],
)
def test_published_file_in_no_dialect_of_ours_is_refused(
    fixtures: Path, folder: str, message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        loratools.open_adapter(fixtures / "real" / folder, allow_pickle=True)
