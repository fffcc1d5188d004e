"""Laws of conversion over all formats that are written, and all spellings that trainers have."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loratools.adapter import Adapter
from loratools.deltas import Delta
from loratools.deltas.lora import LoRA
from loratools.errors import UnsupportedError
from loratools.formats import Dialect, can_write, decode, dialect_named, encode, written
from loratools.io.bundle import Bundle
from loratools.io.dtypes import from_torch_name
from loratools.io.source import Held
from loratools.parts import Filed, Update
from loratools.reshaping.compared import compare
from loratools.reshaping.converted import converted, encoded
from loratools.reshaping.factors import scaling_of
from loratools.testing import loras
from tests.adapters import assert_same
from tests.deltas.computing import applied
from tests.deltas.examples import EXAMPLES
from tests.formats.bundles import decoded, lora
from tests.formats.spellings import SPELLED, Spelled
from tests.narrowing import present

#: A target that each style of names has, of a model that the format is for.
TARGETS = {
    "modules": "model.layers.0.self_attn.q_proj.weight",
    "language": "model.layers.0.self_attn.q_proj.weight",
    "flattened": "lora_unet_mid_block_resnets_0_conv1.weight",
    "diffusers": "unet.mid_block.resnets.0.conv1.weight",
    "comfyui": "diffusion_model.middle_block.0.in_layers.2.weight",
}
each_written = pytest.mark.parametrize("dialect", written(), ids=lambda dialect: dialect.name)


class Conversion(NamedTuple):
    """A file that a trainer wrote, the format that it was converted to, and the result."""

    spelled: Spelled
    adapter: Adapter
    dialect: Dialect
    result: Adapter
    names: dict[str, tuple[str, ...]]

    def of(self, name: str) -> "Delta":
        """What an update of a file is in the result."""
        (new,) = self.names[name]
        return self.result.updates[new].delta

    def is_cut_or_fused(self) -> bool:
        """Whether the result has names of another layout, in which some weights are others."""
        return any(
            len(new) > 1 or self.result.updates[new[0]].delta.shape[0] != len(before)
            for name, (before, _) in self.spelled.weights.items()
            for new in [self.names[name]]
        )


def read(spelled: Spelled) -> Adapter:
    tensors = {
        key: Held(key, tensor, from_torch_name(str(tensor.dtype).removeprefix("torch.")))
        for key, tensor in spelled.tensors.items()
    }
    return decode(Bundle("here", tensors, spelled.metadata, spelled.config, (), 0))


def convert(adapter: Adapter, dialect: Dialect) -> tuple[Adapter, dict[str, tuple[str, ...]]]:
    """The adapter that is read of what is written in a format, and the new names by the old."""
    found = converted(adapter, dialect, None, ())
    own = present(adapter.filed).dialect
    result = decode(encoded(found, dialect, own, None).bundle)
    assert present(result.filed).dialect == dialect.name
    assert compare(found.adapter, result).worst is None
    return result, dict(found.names)


def conversions() -> Iterator[Conversion]:
    """All that are possible."""
    for spelled in SPELLED:
        adapter = read(spelled)
        for dialect in written():
            try:
                result, names = convert(adapter, dialect)
            except UnsupportedError:
                continue
            yield Conversion(spelled, adapter, dialect, result, names)


CONVERSIONS = tuple(conversions())
each_conversion = pytest.mark.parametrize(
    "conversion",
    CONVERSIONS,
    ids=[f"{found.spelled.trainer} to {found.dialect.name}" for found in CONVERSIONS],
)


@each_conversion
def test_a_converted_adapter_does_what_the_formula_of_the_trainers_file_says(
    conversion: Conversion,
) -> None:
    spelled, result = conversion.spelled, conversion.result
    assert set(result.updates) == {n for name in spelled.weights for n in conversion.names[name]}
    for name, (before, after) in spelled.weights.items():
        if conversion.is_cut_or_fused():
            assert torch.equal(applied_to_parts(conversion, name, before), after)
            continue
        delta = conversion.of(name)
        allowed = before.shape[1] * torch.finfo(torch.float64).eps if delta.additive is None else 0
        torch.testing.assert_close(applied(delta, before), after, rtol=allowed, atol=0)
    for name, tensor in spelled.replaced.items():
        (new,) = conversion.names[name]
        assert torch.equal(result.replaced[new].source.read(), tensor)


def applied_to_parts(conversion: Conversion, name: str, weight: Tensor) -> Tensor:
    """A weight of Flux after the update of one weight that it is rows of, or consists of."""
    new = conversion.names[name]
    deltas = [conversion.result.updates[one].delta for one in new]
    if len(new) > 1:
        parts = weight.tensor_split(len(new))
        return torch.cat([applied(d, part) for d, part in zip(deltas, parts, strict=True)])
    if deltas[0].shape[0] == len(weight):
        return applied(deltas[0], weight)
    at = "qkv".index(name.removesuffix(".weight")[-1])
    rows = deltas[0].shape[0]
    whole = torch.zeros(rows, weight.shape[1], dtype=weight.dtype)
    whole[at * len(weight) : (at + 1) * len(weight)] = weight
    return applied(deltas[0], whole)[at * len(weight) : (at + 1) * len(weight)]


@each_conversion
def test_a_conversion_there_and_back_keeps_every_update(conversion: Conversion) -> None:
    dialect = dialect_named(present(conversion.adapter.filed).dialect)
    if dialect not in written():
        return
    try:
        back, names = convert(conversion.result, dialect)
    except UnsupportedError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        # The names say less than the old ones did, or are those of another layout.
        assert re.search("base= decides|nothing says in which", refused), refused
        return
    renamed = {
        n: name
        for name in conversion.spelled.weights
        for new in conversion.names[name]
        for n in names[new]
    }
    assert set(back.updates) == set(renamed)
    for new, old in renamed.items():
        before, after = conversion.spelled.weights[old]
        delta, original = back.updates[new].delta, conversion.adapter.updates[old].delta
        assert delta.kind == original.kind
        if conversion.is_cut_or_fused():
            assert torch.equal(applied(delta, before), after)
            continue
        assert present(delta.scaling).value == present(original.scaling).value
        for source, twin in zip(delta.sources, original.sources, strict=True):
            assert torch.equal(source.read(), twin.read())
        if delta.additive is not None:
            assert torch.equal(applied(delta, before), after)


def test_every_format_that_is_written_takes_adapters_of_another_one_and_gives_them_back() -> None:
    pairs = {(present(c.adapter.filed).dialect, c.dialect.name) for c in CONVERSIONS}
    for dialect in written():
        assert (dialect.name, dialect.name) in pairs
        assert [one for one, other in pairs if other == dialect.name != one], dialect.name
        assert [other for one, other in pairs if one == dialect.name != other], dialect.name


@pytest.mark.parametrize("spelled", SPELLED, ids=lambda spelled: spelled.trainer)
def test_what_is_written_in_the_same_format_is_read_back_bit_for_bit(spelled: Spelled) -> None:
    adapter = read(spelled)
    if not can_write(dialect_named(spelled.dialect)):
        return
    bundle = encode(adapter)
    assert_same(adapter, decode(bundle))
    for key, source in spelled.tensors.items():
        # diffusers' older keys are written as its newer ones.
        if spelled.dialect != "diffusers":
            assert torch.equal(bundle.tensors[key].read(), source), key


def one(dialect: Dialect, delta: Delta) -> Adapter:
    """An adapter with one update, of a target that the format has a name for."""
    target = TARGETS[dialect.style]
    return replace(decoded(lora("q")), updates={target: Update(delta)}, filed=None)


@pytest.mark.parametrize("spelled", SPELLED, ids=lambda spelled: spelled.trainer)
def test_a_format_says_which_kinds_it_reads(spelled: Spelled) -> None:
    assert {*read(spelled).kinds} - {"rsLoRA"} <= {*dialect_named(spelled.dialect).reads}


@each_written
@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_format_writes_the_kinds_that_it_says(dialect: Dialect, kind: str) -> None:
    """An example of each kind is written, and read as the same, if and only if it is stated."""
    for delta in EXAMPLES[kind]:
        adapter = one(dialect, delta)
        try:
            twin = decode(encode(adapter, dialect.name))
        except UnsupportedError:
            continue
        assert delta.kind in dialect.writes
        assert compare(adapter, twin).worst is None


@each_written
def test_the_kinds_that_a_format_says_it_writes_are_written(dialect: Dialect) -> None:
    found = set()
    for delta in (delta for examples in EXAMPLES.values() for delta in examples):
        try:
            encode(one(dialect, delta), dialect.name)
        except UnsupportedError:
            continue
        found.add(delta.kind)
    # What stands beside an update is written with it, and not alone.
    assert set(dialect.writes) - found <= {"diff"}
    assert set(dialect.writes) <= set(dialect.reads)


def test_a_dora_that_comfyui_would_apply_otherwise_is_refused() -> None:
    """It divides by the norms of the weight alone, if there is a magnitude for each output."""
    doras = [delta for delta in EXAMPLES["dora"] if len(delta.shape) == 2]
    assert {delta.by_rows for delta in doras} == {True, False}
    comfyui = dialect_named("comfyui")
    for delta in doras:
        if delta.by_rows:
            with pytest.raises(UnsupportedError, match="does not apply as it was trained"):
                encode(one(comfyui, delta), "comfyui")
        else:
            encode(one(comfyui, delta), "comfyui")


def test_a_target_is_refused_by_the_name_that_it_can_be_dropped_by() -> None:
    tucker, linear = EXAMPLES["tucker"][0], EXAMPLES["lora"][0]
    path = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_{}.weight"
    updates = {path.format("q"): Update(tucker), path.format("k"): Update(linear)}
    adapter = replace(decoded(lora("q")), updates=updates, filed=Filed("kohya"))
    diffusers = dialect_named("diffusers")
    with pytest.raises(UnsupportedError, match=r"1 of 2 targets.*: lora_unet_\w+_to_q.weight: "):
        encoded(converted(adapter, diffusers, None, ()), diffusers, "kohya", None)
    found = converted(adapter, diffusers, None, ["*_to_q"])
    assert list(found.names) == [path.format("k")]
    encoded(found, diffusers, "kohya", None)


def test_a_scaling_is_folded_and_rounded_once_to_the_dtype_that_is_asked_for() -> None:
    """And not to the dtype of the factors before."""
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(shape, generator=generator).half() for shape in ((4, 3), (3, 5))]
    up, down = (Held(str(shape), t, "F16") for shape, t in zip("ud", factors, strict=True))
    targets = [TARGETS["language"].replace("0", number) for number in "01"]
    updates = {
        target: Update(LoRA(up, down, scaling_of(scaling, 3, "rank"), (4, 5)))
        for target, scaling in zip(targets, (0.1, 0.3), strict=True)
    }
    adapter = replace(decoded(lora("q")), updates=updates)
    mlx = dialect_named("mlx")
    for dtype, limit in (("F32", 2.0**-24), ("F16", 2.0**-11), (None, 2.0**-11)):
        files = encoded(converted(adapter, mlx, None, ()), mlx, "peft", dtype)
        error = present(compare(adapter, decode(files.bundle)).worst)[1]
        assert limit / 16 < error <= limit


@each_written
@given(data=st.data())
def test_any_lora_is_read_back_as_it_was_or_as_rounding_explains(
    dialect: Dialect, data: st.DataObject
) -> None:
    """With any alpha, rule, rank and dtypes; `compare` raises if it is anything else."""
    shape = (5, 3)
    first, second = (TARGETS[dialect.style].replace("0", number) for number in "03")
    updates = {name: Update(data.draw(loras(shape))) for name in (first, second)}
    adapter = replace(decoded(lora("q")), updates=updates, filed=None)
    compare(adapter, decode(encode(adapter, dialect.name)))
