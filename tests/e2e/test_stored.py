"""Every stored adapter is rescaled, resized and combined, or refused by name."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from loratools import RankRule, Rescaling, combine, open_adapter, rescale, resize
from loratools.adapter import Adapter
from loratools.deltas.lora import LoRA
from loratools.errors import UnsupportedError
from loratools.parts import Update
from tests.adapters import assert_same, effects
from tests.e2e.commands import FIXTURES, unchanged

ADAPTERS = sorted(
    path for kind in ("adapters", "kohya", "real") for path in (FIXTURES / kind).iterdir()
)
DORA = "DoRA depends on the weight"
DORAS = {"dora": DORA, "gpt2-conv1d-dora": DORA, "lycoris-tucker-dora": DORA}
#: What no verb can read, or write.
UNREADABLE = {
    "not-an-adapter-smolvla-bin": "not an adapter but the settings",
    "sam-vitb-lora-r2": "the format sam is read and not written",
    "sd15-cloneofsimo-disney-r1": "the format cloneofsimo is read and not",
}
#: What else some verbs refuse.
REFUSED: Mapping[str, Mapping[str, str]] = {
    "halve": {
        **DORAS,
        "embedding-vocab": "takes? the place of the base's",
        "gpt2-bias-all": "takes? the place of the base's",
        "gpt2-lora-bias-all": "takes? the place of the base's",
        "privacyfilter-moe-tokcls-r16": "takes? the place of the base's",
        "trainable-tokens": "takes? the place of the base's",
    },
    "halve_what_can_be": DORAS,
    "combine_with_itself": DORAS,
    "balance": {"lycoris-tucker-dora": "Tucker LoCon has no `up` and `down`"},
}
EPS = {"F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}


def halve(path: Path, output: Path) -> None:
    rescale(path, output=output, rescaling=Rescaling(strength=0.5), allow_pickle=True)


def halve_what_can_be(path: Path, output: Path) -> None:
    rescaling = Rescaling(strength=0.5, keep_replaced=True)
    rescale(path, output=output, rescaling=rescaling, allow_pickle=True)


def balance(path: Path, output: Path) -> None:
    rescale(path, output=output, rescaling=Rescaling(balance=True), allow_pickle=True)


def resize_to_all(path: Path, output: Path) -> None:
    resize(path, output=output, rule=RankRule(max_rank=64), allow_pickle=True)


def resize_to_one(path: Path, output: Path) -> None:
    resize(path, output=output, rule=RankRule(rank=1), allow_pickle=True)


def combine_with_itself(path: Path, output: Path) -> None:
    combine([path, path], output=output, weights=[0.75, -0.25], allow_pickle=True)


Verb = Callable[[Path, Path], None]
#: With what updates are multiplied; None where they are approximated.
VERBS: Mapping[Verb, float | None] = {
    halve: 0.5,
    halve_what_can_be: 0.5,
    balance: 1,
    resize_to_all: 1,
    resize_to_one: None,
    combine_with_itself: 0.5,
}


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.name)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_stored_adapter_is_changed_as_asked_or_refused_by_name(
    verb: Verb, path: Path, tmp_path: Path
) -> None:
    output = tmp_path / ("made.safetensors" if path.parent.name == "kohya" else "made")
    reason = {**UNREADABLE, **REFUSED.get(verb.__name__, {})}.get(path.name)
    with unchanged(path):
        if reason is not None:
            with pytest.raises(UnsupportedError, match=f"{path.name}.*{reason}"):
                verb(path, output)
            assert list(tmp_path.iterdir()) == []
            return
        verb(path, output)
    before, after = open_adapter(path, allow_pickle=True), open_adapter(output)
    is_resized = verb in (resize_to_all, resize_to_one)
    # A rank is that of two factors, so that no core is left between them.
    kinds = ["LoRA" if k == "Tucker LoCon" and is_resized else k for k in before.kinds]
    assert list(after.kinds) == kinds
    assert_kept(before, after)
    factor = VERBS[verb]
    if factor is not None:
        assert_times(before, after, factor)
    else:
        assert {lora.rank for lora in low_rank(after).values()} == {1}


def low_rank(adapter: Adapter) -> dict[str, LoRA]:
    items = adapter.updates.items()
    return {target: update.delta.low_rank for target, update in items if update.delta.low_rank}


def assert_kept(before: Adapter, after: Adapter) -> None:
    """Whatever is no update is bit by bit what it was."""
    nothing: dict[str, Update] = {}
    assert_same(replace(before, updates=nothing), replace(after, updates=nothing))
    assert after.updates.keys() == before.updates.keys()


def assert_times(before: Adapter, after: Adapter, factor: float) -> None:
    """Each factor is rounded to its dtype once, and so off by an eps of its size at most.

    The norm of what that leaves in a product of rank r is at most √r eps of each factor's, times
    the other's norm. Of many targets about six are looked at.
    """
    some = list(before.updates)[:: len(before.updates) // 6 or 1]
    found = effects(replace(after, updates={target: after.updates[target] for target in some}))
    chosen = replace(before, updates={target: before.updates[target] for target in some})
    for target, update in effects(chosen).items():
        lora = before.updates[target].delta.low_rank
        eps = max(EPS[source.dtype] for source in before.updates[target].delta.sources)
        size = float(update.norm())
        if lora is not None:
            up, down = lora.up.read().double(), lora.down.read().double()
            size = abs(lora.scaling.value) * float(up.norm() * down.norm())
        assert float((found[target] - factor * update).norm()) <= 2 * eps * size, target
