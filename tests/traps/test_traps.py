"""Every trap is found in the smallest adapter that has it, and in none that is sound."""

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

import loratools
from loratools import traps
from loratools.adapter import Adapter
from loratools.deltas import Delta
from loratools.deltas.lora import Origin, Scaling
from loratools.errors import FormatError, LoratoolsError, OptionError, UnsupportedError
from loratools.files.opening import open_adapter, open_base
from loratools.formats import decode, encode
from loratools.io.bundle import Bundle
from loratools.io.checkpoint import Checkpoint
from loratools.io.source import Held
from loratools.traps import repaired
from tests.adapters import effects
from tests.deltas.toys import each_kind
from tests.formats import bundles
from tests.formats.kohya.modules import TEXT, UNET, module
from tests.narrowing import present
from tests.reshaping.adapters import adapter
from tests.traps.examples import (
    BASE,
    EXAMPLES,
    OTHERS,
    Example,
    fused,
    in_memory,
    kohya,
    peft,
    ungathered_bundle,
    with_tokens,
)

FIXTURES = Path(__file__).parents[2] / "fixtures"
each_trap = pytest.mark.parametrize("name", sorted(EXAMPLES))
REPAIRED = [name for name, trap in traps.traps().items() if trap.is_repaired]


def found(adapter: Adapter, base: Checkpoint | None = None) -> set[str]:
    """The names of all traps that are found in an adapter."""
    adapter = replace(adapter, notes=(*adapter.notes, *traps.doubts(adapter)))
    seen = (*adapter.notes, *adapter.notes_beside)
    warned = traps.warnings(adapter, base, reads_values=True)
    return {note.trap for note in (*seen, *warned) if note.trap is not None}


def as_written(bundle: Bundle) -> Bundle:
    """A bundle with the tensors under the names that they are written with."""
    sources = bundle.tensors.items()
    held = {key: Held(key, source.read(), source.dtype) for key, source in sources}
    return replace(bundle, tensors=held)


def scalings(adapter: Adapter) -> dict[str, float]:
    known = {target: update.delta.scaling for target, update in adapter.updates.items()}
    return {target: scaling.value for target, scaling in known.items() if scaling is not None}


def test_every_trap_has_an_example() -> None:
    assert {*EXAMPLES, *OTHERS} == set(traps.names())


@each_trap
def test_trap_is_found_where_it_is_and_no_other(name: str) -> None:
    example = EXAMPLES[name]
    assert found(example.trapped(), example.checkpoint) == {name}


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, n) for name, example in EXAMPLES.items() for n in range(len(example.sound))],
)
def test_sound_adapter_raises_no_alarm(name: str, number: int) -> None:
    example = EXAMPLES[name]
    assert name not in found(example.sound[number](), example.checkpoint)


@pytest.mark.parametrize(
    "path",
    ["adapters/plain", "adapters/dora", "adapters/combine-r16", "kohya/sdxl-dynamic"],
)
def test_trained_adapter_raises_no_alarm(path: str) -> None:
    assert found(open_adapter(FIXTURES / path)) == set()


def test_traps_that_need_values_or_a_base_are_not_found_without() -> None:
    split = EXAMPLES["split-qkv"].trapped()
    assert list(traps.warnings(split)) == []
    small = EXAMPLES["small-matrices"].trapped()
    assert list(traps.warnings(small, reads_values=True)) == []


def test_notes_of_dialects_name_traps_that_exist() -> None:
    package = Path(loratools.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    named = {name for text in texts for name in re.findall(r"""\btrap="([^"]+)""", text)}
    assert {"stale-metadata", "stray-weights"} <= named <= set(traps.names())


# Repairs


@pytest.mark.parametrize("name", REPAIRED)
def test_repaired_adapter_has_the_trap_no_more_and_the_report_says_what_changed(name: str) -> None:
    example = EXAMPLES[name]
    before = example.trapped()
    before = replace(before, notes=(*before.notes, *traps.doubts(before)))
    after, changes = repaired(before, [name])
    assert changes
    assert {change.trap for change in changes} == {name}
    assert all(change.before != change.after for change in changes)
    assert scalings(after) == (example.cured or scalings(before))
    again = decode(as_written(encode(after)))
    assert scalings(again) == scalings(after)
    assert name not in found(again)


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - set(REPAIRED)))
def test_trap_that_cannot_be_repaired_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        repaired(EXAMPLES[name].trapped(), [name])
    assert caught.value.complaint.endswith(f"{name} is not repaired here")
    assert caught.value.hint == traps.traps()[name].cure


@pytest.mark.parametrize("name", REPAIRED)
def test_sound_adapter_is_refused_by_the_repair(name: str) -> None:
    for sound in EXAMPLES[name].sound:
        with pytest.raises(UnsupportedError, match="could be repaired"):
            repaired(sound(), [name])


def test_unknown_trap_is_refused_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"'zero-alhpa'; .*zero-alpha"):
        repaired(EXAMPLES["zero-alpha"].trapped(), ["zero-alhpa"])


def test_repair_of_names_in_keys_says_what_is_the_same_in_all_keys() -> None:
    _, changes = repaired(EXAMPLES["adapter-name"].trapped(), ["adapter-name"])
    assert {change[1:3] for change in changes} == {
        (f"lora_{part}.default.weight", f"lora_{part}.weight") for part in "AB"
    }
    assert {change.target for change in changes} == {"model.layers.0.self_attn.q_proj.weight"}


def test_all_traps_of_an_adapter_are_repaired_at_once() -> None:
    both = kohya(module(alpha=0), fused(1, 4, 4, 4), module(TEXT, alpha=1))()
    after, changes = repaired(both, [traps.ALL])
    assert {change.trap for change in changes} == {"zero-alpha", "split-qkv"}
    assert {*scalings(after).values()} == {1.0, 0.5}


@each_kind
def test_every_kind_with_a_scaling_is_repaired(delta: Delta) -> None:
    if delta.scaling is None:
        return
    off = adapter({"a.weight": delta.with_scaling(replace(delta.scaling, alpha=0))})
    after = repaired(off, ["zero-alpha"]).adapter.updates["a.weight"].delta
    assert after.kind == delta.kind
    assert present(after.scaling).value == 1


def test_update_and_its_bias_get_the_same_scaling() -> None:
    """PEFT multiplies the bias by the scaling of the factors."""
    shapes = bundles.lora("q") | {f"{bundles.PREFIX}q.lora_B.bias": (4,)}
    adapter = peft(shapes, lora_alpha=0, lora_bias=True)()
    (note,) = traps.doubts(adapter)
    assert note.message.endswith(": q.weight")
    after, _ = repaired(adapter, ["zero-alpha"])
    assert scalings(decode(encode(after))) == {"q.weight": 1.0, "q.bias": 1.0}


# Single traps


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_fused_update_is_as_strong_as_its_parts_were(parts: int) -> None:
    """With rank 2 and alpha 1, each part was trained at a scaling of 1/2."""
    adapter = kohya(fused(1, *[4] * parts), module(TEXT, alpha=1))()
    assert found(adapter) == {"split-qkv"}
    after, (change,) = repaired(adapter, ["split-qkv"])
    assert set(scalings(after).values()) == {0.5}
    before = effects(adapter)[str(change.target)]
    assert effects(after)[str(change.target)].allclose(parts * before)


def test_parts_of_unequal_heights_are_found() -> None:
    """Flux's `linear1` is q, k, v and a four times as high mlp."""
    assert found(kohya(fused(1, 2, 2, 2, 8), module(TEXT, alpha=1))()) == {"split-qkv"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_fused_update_is_found_in_every_dtype(dtype: torch.dtype) -> None:
    tensors = {key: value.to(dtype) for key, value in fused(1, 4, 4, 4).items()}
    assert found(kohya(tensors, module(TEXT, alpha=1))()) == {"split-qkv"}


def test_fused_update_beside_no_other_is_compared_with_the_metadata() -> None:
    size = {"ss_network_dim": "2", "ss_network_alpha": "1"}
    assert "split-qkv" in found(kohya(fused(1, 4, 4, 4), **size)())
    assert "split-qkv" not in found(kohya(fused(3, 4, 4, 4), **size)())
    assert "split-qkv" not in found(kohya(fused(1, 4, 4, 4))())


def test_untrained_update_is_not_taken_for_a_fused_one() -> None:
    tensors = fused(1, 4, 4, 4)
    zero = {key: 0 * value if "up" in key else value for key, value in tensors.items()}
    assert "split-qkv" not in found(kohya(zero, module(TEXT, alpha=1))())


def test_alpha_missing_everywhere_is_information() -> None:
    (note,) = traps.doubts(kohya(module(alpha=None))())
    expected = f"no alpha, so the scaling is taken as 1: {UNET}.weight"
    assert (note.severity, note.message) == ("info", expected)


def test_alpha_missing_on_some_modules_is_a_problem_unless_all_have_the_same_scaling() -> None:
    (note,) = traps.doubts(kohya(module(alpha=None), module(TEXT, alpha=1))())
    assert note.severity == "problem"
    assert "other modules have 0.5" in note.message
    (note,) = traps.doubts(kohya(module(alpha=None), module(TEXT, alpha=2))())
    assert note.severity == "info"


def test_lost_config_is_named_once() -> None:
    adapter = decode(replace(ungathered_bundle("k.weight", 1), config=None))
    adapter = replace(adapter, notes=(*adapter.notes, *traps.doubts(adapter)))
    (note,) = [note for note in adapter.notes if note.trap == "missing-alpha"]
    assert note.severity == "problem"


def test_rank_stabilisation_is_exact_in_the_new_alpha() -> None:
    """8 / √16 = 32 / 16."""
    adapter = peft(bundles.lora("q", rank=16), r=16, lora_alpha=8, use_rslora=True)()
    bundle = encode(repaired(adapter, ["rslora"]).adapter)
    assert bundle.config is not None
    assert (bundle.config["lora_alpha"], bundle.config["use_rslora"]) == (32, False)
    assert all(bundle.tensors[key] is source for key, source in encode(adapter).tensors.items())


def test_pattern_in_the_metadata_is_as_little_read_as_the_alpha_there() -> None:
    pattern = Scaling(1, 2, "sqrt_rank", "alpha_pattern")
    assert found(in_memory(pattern)()) == {"metadata-alpha"}


def test_one_alpha_that_the_user_gives_for_several_ranks_is_a_problem() -> None:
    shapes = bundles.lora("q") | bundles.lora("k", rank=4)
    adapter = decode(replace(bundles.bundle(shapes, None)), {"alpha": "8"})
    (note,) = traps.warnings(adapter)
    assert (note.trap, note.severity) == ("mixed-ranks", "problem")


def test_alpha_of_the_metadata_and_of_the_option_are_told_apart_in_a_description() -> None:
    from loratools.describing.description import inspect_adapter

    origins = get_args(Origin)
    adapter = in_memory(*(Scaling(1, 2, "rank", origin) for origin in origins))()
    assert {group.alpha_from for group in inspect_adapter(adapter).groups} == set(origins)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("k.lora_A.weight", (0,)),
        ("k.lora_B.weight", (12,)),
        ("k.lora_A.weight", (0, 3)),
        ("k.lora_A.default.weight", (0,)),
        ("_fsdp_wrapped_module._flat_param", (40,)),
        ("layers.0.flat_param_3", (40,)),
    ],
)
def test_factor_that_was_not_gathered_is_named(key: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(LoratoolsError, match=r"ZeRO-3 or FSDP.* save it again"):
        decode(ungathered_bundle(key, *shape))


def test_other_faults_are_not_blamed_on_a_training() -> None:
    with pytest.raises(LoratoolsError) as caught:
        decode(ungathered_bundle("q.lora_A.weight", 3, 3))
    assert "ZeRO" not in str(caught.value)


def test_tokens_beyond_the_vocabulary_are_found_beside_the_base(tmp_path: Path) -> None:
    base = open_base(BASE)
    assert base.config is not None
    rows = base.config["vocab_size"]
    assert found(with_tokens(tmp_path, {"<new>": rows}), base) == {"added-tokens"}
    assert found(with_tokens(tmp_path, {"<new>": rows})) == set()
    assert found(with_tokens(tmp_path, {"<old>": rows - 1}), base) == set()


def test_added_tokens_that_are_no_object_are_an_error(tmp_path: Path) -> None:
    adapter = with_tokens(tmp_path, {})
    (tmp_path / "added_tokens.json").write_text("[1]")
    with pytest.raises(FormatError, match="added_tokens"):
        found(adapter, open_base(BASE))


def test_transposed_weight_is_not_smaller() -> None:
    """GPT-2 stores (in, out)."""
    target = "transformer.h.0.attn.c_attn"
    base = open_base(FIXTURES / "tiny-gpt2")
    found_shape = base.tensors[f"{target}.weight"].shape
    rows, columns = found_shape[::-1]
    adapter = peft(bundles.lora(target, rows=rows, columns=columns))()
    assert found(adapter, base) == set()
    smaller = peft(bundles.lora(target, rows=rows, columns=columns // 2))()
    assert found(smaller, base) == {"small-matrices"}


def test_traps_show_in_a_report_of_inspect() -> None:
    found = loratools.inspect(FIXTURES / "adapters/rslora-patterns")
    assert {note["trap"] for note in found.to_json()["notes"]} == {"rslora", "mixed-ranks"}
    assert found.is_sound


def test_example_is_complete() -> None:
    assert all(isinstance(example, Example) and example.sound for example in EXAMPLES.values())
