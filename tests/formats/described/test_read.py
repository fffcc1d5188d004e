"""Adapters with described keys: their updates, their strength, and what is refused."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from loratools.adapter import Adapter
from loratools.errors import FormatError, OptionError, ShapeMismatchError, UnsupportedError
from loratools.formats import decode, encode
from loratools.io.bundle import Bundle
from loratools.io.source import Held
from tests.adapters import effects
from tests.formats.bundles import bundle, config, lora, notes
from tests.narrowing import present

KEYS = "up={target}.B down={target}.A"
SHAPES = {"fc1.A": (2, 5), "fc1.B": (6, 2), "net.fc2.A": (3, 6), "net.fc2.B": (4, 3)}


def read(files: Bundle, keys: str = KEYS, **options: str) -> Adapter:
    return decode(files, {"keys": keys, **options})


def tensor(files: Bundle, key: str) -> torch.Tensor:
    return files.tensors[key].read().double()


def test_update_is_the_scale_times_the_product_of_the_described_factors() -> None:
    files = bundle(SHAPES, None)
    for options, scale in (({}, 1.0), ({"scale": "0.5"}, 0.5), ({"alpha": "6"}, 6 / 2)):
        adapter = read(files, **options)
        assert list(adapter.updates) == ["fc1.weight", "net.fc2.weight"]
        expected = scale * tensor(files, "fc1.B") @ tensor(files, "fc1.A")
        torch.testing.assert_close(effects(adapter)["fc1.weight"], expected)


def test_source_of_the_scale_is_known() -> None:
    files = bundle(SHAPES, None)

    def origin(adapter: Adapter) -> str:
        return present(adapter.updates["fc1.weight"].delta.scaling).origin

    assert origin(read(files)) == "assumed"
    for options in ({"scale": "2"}, {"alpha": "2"}):
        assert origin(read(files, **options)) == "option"
        assert not read(files, **options).notes
    alphas = {"fc1.alpha": Held("fc1.alpha", torch.tensor(3.0), "F32")}
    files = replace(files, tensors={**files.tensors, **alphas})
    adapter = read(files, f"{KEYS} alpha={{target}}.alpha")
    assert origin(adapter) == "tensor"
    assert present(adapter.updates["fc1.weight"].delta.scaling).value == 1.5
    with pytest.raises(OptionError, match="here: scale: the alpha in the file says it; leave out"):
        read(files, f"{KEYS} alpha={{target}}.alpha", scale="2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "2", "alpha": "2"}, "scale, alpha: both say how strong"),
        ({"scale": "0"}, "a strength of 0 leaves nothing"),
        ({"alpha": "-0.0"}, "a strength of 0 leaves nothing"),
    ],
)
def test_scales_that_contradict_each_other_are_refused(options: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read(bundle(SHAPES, None), **options)


@pytest.mark.parametrize("stored", ["up down", "up.T down.T", "up.T down", "up down.T"])
@pytest.mark.parametrize("is_said", [True, False])
def test_transposed_factors_are_read_as_said_or_as_their_shapes_show(
    stored: str, is_said: bool
) -> None:
    up, down = stored.split()
    files = bundle(SHAPES, None)
    tensors = {
        key: Held(key, source.read().T.contiguous(), "F32")
        if (up if key.endswith("B") else down).endswith(".T")
        else source
        for key, source in files.tensors.items()
    }
    keys = f"{up}={{target}}.B {down}={{target}}.A" if is_said else KEYS
    adapter = read(replace(files, tensors=tensors), keys)
    for target, effect in effects(read(files)).items():
        torch.testing.assert_close(effects(adapter)[target], effect)
    said = [note for note in notes(adapter, "info") if "stored transposed" in note]
    assert bool(said) == (".T" in stored and not is_said)


def test_one_layer_that_is_not_square_says_how_all_are_stored() -> None:
    square = {"q.A": (3, 3), "q.B": (3, 3)}
    rank = {"q.weight": 3, "k.weight": 2}
    files = bundle(square | {"k.A": (5, 2), "k.B": (2, 6)}, None)
    adapter = read(files)
    assert {t: present(u.delta.low_rank).rank for t, u in adapter.updates.items()} == rank
    expected = (tensor(files, "q.A") @ tensor(files, "q.B")).T
    torch.testing.assert_close(effects(adapter)["q.weight"], expected)
    expected = tensor(files, "q.B") @ tensor(files, "q.A")
    torch.testing.assert_close(effects(read(bundle(square, None)))["q.weight"].shape, (3, 3))
    torch.testing.assert_close(
        effects(read(replace(files, tensors={k: files.tensors[k] for k in square})))["q.weight"],
        expected,
    )


def test_where_both_ways_fit_the_factors_are_longer_than_wide() -> None:
    for down, up in (((2, 8), (8, 2)), ((8, 2), (2, 8))):
        adapter = read(bundle({"q.A": down, "q.B": up}, None))
        assert adapter.updates["q.weight"].delta.shape == (8, 8)
    said = read(bundle({"q.A": (8, 2), "q.B": (2, 8)}, None), "up.T={target}.A down.T={target}.B")
    assert said.updates["q.weight"].delta.shape == (2, 2)


def test_factors_that_fit_in_no_way_are_an_error() -> None:
    with pytest.raises(ShapeMismatchError, match=r"here: q: lora_down \[3, 8\] and lora_up \[7, 2"):
        read(bundle({"q.A": (3, 8), "q.B": (7, 2)}, None))


def test_convolution_has_its_kernel_and_is_not_transposed_with_the_linear_layers() -> None:
    linear = {"fc.A": (5, 2), "fc.B": (2, 6)}
    adapter = read(bundle({"c.A": (2, 3, 3, 3), "c.B": (4, 2, 1, 1), **linear}, None))
    shapes = {target: update.delta.shape for target, update in adapter.updates.items()}
    assert shapes == {"c.weight": (4, 3, 3, 3), "fc.weight": (6, 5)}


def test_each_module_is_of_the_kind_of_its_own_parts() -> None:
    core = {"c.A": (2, 3, 1, 1), "c.B": (4, 2, 1, 1), "c.M": (2, 2, 3, 3)}
    shapes = SHAPES | core | {"fc1.m": (6,)}
    adapter = read(bundle(shapes, None), f"{KEYS} mid={{target}}.M magnitude={{target}}.m")
    kinds = {target: update.delta.kind for target, update in adapter.updates.items()}
    assert kinds == {"fc1.weight": "DoRA", "net.fc2.weight": "LoRA", "c.weight": "Tucker LoCon"}
    assert {k: s.shape for k, s in encode(adapter).tensors.items()} == shapes
    with pytest.raises(UnsupportedError, match=r"here: \S+: no pattern says where m\w+ goes"):
        encode(replace(adapter, filed=read(bundle(SHAPES, None)).filed))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            {"x": (2,), "y": (2,)},
            r"here: no key fits up={target}\.B, down={target}\.A, and it has x, y",
        ),
        (SHAPES | {"fc1.bias": (6,)}, r"here: fc1\.bias: fits none of up=.*; base={target}\.layer"),
        ({"fc1.A": (2, 5)}, r"here: has fc1\.A and no fc1\.B"),
        (SHAPES | {"x.B": (2, 5)}, r"here: has x\.B and no x\.A"),
    ],
)
def test_files_that_do_not_fit_the_description_are_refused(
    shapes: Mapping[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        read(bundle(shapes, None))


def test_description_is_stronger_than_what_keys_look_like_but_not_for_other_adapters() -> None:
    options = {"keys": "up={target}.lora_B.weight down={target}.lora_A.weight"}
    peft = bundle(lora("q"), config())
    assert present(decode(peft).filed).dialect == "peft"
    assert present(decode(peft, options).filed).dialect == "described"
    assert present(decode(peft, {"keys": KEYS}).filed).dialect == "peft"


# Written again


@pytest.mark.parametrize("extra", ["", " alpha={target}.alpha"])
@pytest.mark.parametrize("options", [{}, {"scale": "0.3"}, {"alpha": "5"}], ids=str)
def test_written_file_has_the_described_keys_and_is_read_without_a_description(
    extra: str, options: Any
) -> None:
    files = bundle({"a.A": (5, 2), "a.B": (2, 6)}, None)
    adapter = read(files, KEYS + extra, **options)
    bundled = encode(adapter)
    assert {k: s.shape for k, s in bundled.tensors.items()} == {"a.A": (5, 2), "a.B": (2, 6)} or (
        options and extra
    )
    again = decode(bundled)
    assert present(again.filed).dialect == "described"
    delta = adapter.updates["a.weight"].delta.scaled(-2)
    stronger = replace(
        adapter, updates={"a.weight": replace(adapter.updates["a.weight"], delta=delta)}
    )
    for one, factor in ((again, 1.0), (decode(encode(stronger)), -2.0)):
        expected = factor * effects(adapter)["a.weight"]
        torch.testing.assert_close(effects(one)["a.weight"], expected, rtol=0, atol=0)
    unchanged = {key: bundled.tensors[key].read() for key in files.tensors}
    assert all(torch.equal(unchanged[key], files.tensors[key].read()) for key in unchanged)


def test_scale_may_be_said_beside_the_patterns(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text('up: "{target}.B"\ndown: "{target}.A"\nscale: 2\n')
    for keys in (str(file), f"{KEYS} scale=2.0"):
        for options, value in (({}, 2), ({"scale": "3"}, 3), ({"alpha": "3"}, 1.5)):
            adapter = read(bundle(SHAPES, None), keys, **options)
            scaling = present(adapter.updates["fc1.weight"].delta.scaling)
            assert (scaling.value, scaling.origin) == (value, "option")
            assert present(decode(encode(adapter)).updates["fc1.weight"].delta.scaling) == scaling


def test_strength_in_the_metadata_counts_until_an_option_says_another() -> None:
    files = replace(bundle(SHAPES, None), metadata={"loratools.scale": "2.0", "by": "me"})

    def value(adapter: Adapter) -> float:
        return present(adapter.updates["fc1.weight"].delta.scaling).value

    assert value(read(files)) == 2
    assert value(read(files, scale="3")) == 3
    adapter = read(files, alpha="3")
    assert value(adapter) == 1.5
    metadata = {"loratools.keys": KEYS.replace(" ", "\n"), "loratools.alpha": "3.0", "by": "me"}
    assert present(adapter.filed).metadata == metadata


def test_metadata_that_loratools_would_not_write_is_an_error(tmp_path: Path) -> None:
    secret = tmp_path / "keys.yaml"
    secret.write_text('up: "{target}.B"\ndown: "{target}.A"')
    for entry, message in (
        (str(secret), "is neither PART=PATTERN"),
        ("up={target}.B", "no pattern for down"),
    ):
        files = replace(bundle(SHAPES, None), metadata={"loratools.keys": entry})
        with pytest.raises(
            FormatError, match=rf"here: loratools\.keys in the metadata: .*{message}"
        ):
            decode(files)
    files = replace(files, metadata={"loratools.keys": KEYS, "loratools.scale": "much"})
    with pytest.raises(FormatError, match=r"loratools\.keys in the metadata"):
        decode(files)


# In the verbs


def test_every_verb_that_reads_an_adapter_takes_the_description(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stored = {key: torch.randn(shape) for key, shape in SHAPES.items()}
    path, base = tmp_path / "home.safetensors", tmp_path / "base.safetensors"
    save_file(stored, path)
    save_file({"fc1.weight": torch.randn(6, 5), "net.fc2.weight": torch.randn(4, 6)}, base)
    told: Any = {"dialect_options": {"keys": KEYS, "scale": "2"}}
    assert loratools.inspect(path, base=base, **told).coverage
    loratools.merge(base, path, output=tmp_path / "merged.safetensors", **told)
    half = loratools.Rescaling(strength=0.5)
    loratools.rescale(path, output=tmp_path / "half.safetensors", rescaling=half, **told)
    rule = loratools.RankRule(rank=1)
    loratools.resize(path, output=tmp_path / "one.safetensors", rule=rule, **told)
    both = [path, tmp_path / "half.safetensors"]
    loratools.combine(both, output=tmp_path / "both.safetensors", **told)
    loratools.swap(base, path, **told)
    product = stored["fc1.B"].double() @ stored["fc1.A"].double()
    for name, factor in (("half", 1.0), ("both", 3.0)):
        found = effects(loratools.open_adapter(tmp_path / f"{name}.safetensors"))["fc1.weight"]
        torch.testing.assert_close(found, factor * product, rtol=1e-5, atol=1e-6)
    assert load_file(tmp_path / "one.safetensors")["fc1.A"].shape == (1, 5)
    merged = load_file(tmp_path / "merged.safetensors")
    assert all(torch.equal(merged[name], value) for name, value in load_file(base).items())
