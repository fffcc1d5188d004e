"""MLX's adapters: orientation, the one scale, and what mlx-lm's strict loader wants of a file."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

import loratools
from loratools.adapter import Adapter
from loratools.deltas.dora import DoRA
from loratools.deltas.stacked import Stacked
from loratools.errors import FormatError, ShapeMismatchError, UnsupportedError
from loratools.files.writing import write_adapter
from loratools.formats import decode, encode
from loratools.io.bundle import Bundle
from loratools.io.source import Held
from loratools.parts import Update
from tests.adapters import assert_same, effects
from tests.formats.bundles import Shapes, bundle, notes
from tests.formats.bundles import config as peft_config
from tests.formats.bundles import lora as peft_lora
from tests.narrowing import present

Q, V = "model.layers.2.self_attn.q_proj", "model.layers.3.self_attn.v_proj"


def lora(module: str, rank: int = 2, rows: int = 4, columns: int = 3) -> Shapes:
    """The keys and shapes of a linear layer's two factors."""
    return {f"{module}.lora_a": (columns, rank), f"{module}.lora_b": (rank, rows)}


def fields(**changes: Any) -> dict[str, Any]:
    parameters = {"rank": 2, "scale": 20.0, "dropout": 0.0}
    return {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters, **changes}


def parameters(**changes: Any) -> dict[str, Any]:
    return fields(lora_parameters={"rank": 2, "scale": 20.0, "dropout": 0.0, **changes})


def tensors(files: Bundle) -> Mapping[str, Tensor]:
    return {key: source.read() for key, source in files.tensors.items()}


def exact(shapes: Shapes, config: Any) -> Bundle:
    """A bundle whose numbers are whole, so that sums of their products are exact in any order."""
    files = bundle(shapes, config)
    rounded = {k: Held(k, (4 * s.read()).round(), "F32") for k, s in files.tensors.items()}
    return replace(files, tensors=rounded)


PAIRS = {**lora(Q), **lora(V)}


# Reading


def test_update_is_the_scale_times_both_factors_transposed() -> None:
    files = exact(lora(Q), fields())
    a, b = (files.tensors[f"{Q}.{part}"].read().double() for part in ("lora_a", "lora_b"))
    adapter = decode(files)
    assert present(adapter.filed).dialect == "mlx"
    (update,) = adapter.updates.values()
    assert (update.delta.shape, update.fan_in_fan_out) == ((4, 3), False)
    torch.testing.assert_close(effects(adapter)[f"{Q}.weight"], 20 * (a @ b).T, rtol=0, atol=0)
    scaling = present(update.delta.scaling)
    assert (scaling.value, scaling.rule, scaling.origin) == (20, "direct", "config")


def test_update_of_an_embedding_is_not_transposed() -> None:
    key = "model.embed_tokens"
    files = exact({f"{key}.lora_a": (7, 2), f"{key}.lora_b": (2, 3)}, fields())
    a, b = (source.read().double() for source in files.tensors.values())
    adapter = decode(files)
    (update,) = adapter.updates.values()
    assert (update.delta.shape, update.is_embedding) == ((7, 3), True)
    torch.testing.assert_close(effects(adapter)[f"{key}.weight"], 20 * (a @ b), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("shapes", "shape"),
    [
        ({**lora("a.q"), "a.q.m": (4,)}, (4, 3)),
        ({"wte.lora_a": (7, 2), "wte.lora_b": (2, 3), "wte.m": (7,)}, (7, 3)),
    ],
    ids=["linear", "embedding"],
)
def test_magnitudes_are_those_of_rows(shapes: Shapes, shape: tuple[int, ...]) -> None:
    (update,) = decode(bundle(shapes, fields(fine_tune_type="dora"))).updates.values()
    assert isinstance(update.delta, DoRA)
    assert (update.delta.axis, update.delta.shape) == ("row", shape)


E = "model.layers.3.mlp.switch_mlp.up_proj"


@pytest.mark.parametrize("is_flat", [False, True], ids=["each", "flat"])
def test_experts_have_a_pair_of_factors_each(is_flat: bool) -> None:
    """As `fuse` of mlx-lm: lora_b @ lora_a for each expert, in the orientation of the weight."""
    files = bundle(
        {f"{E}.lora_a": (6, 5) if is_flat else (3, 2, 5), f"{E}.lora_b": (3, 4, 2)}, fields()
    )
    a, b = (source.read().double() for source in files.tensors.values())
    adapter = decode(files)
    (delta,) = (update.delta for update in adapter.updates.values())
    assert isinstance(delta, Stacked)
    assert delta.shape == (3, 4, 5)
    expected = 20 * torch.einsum("eor,eri->eoi", b, a.reshape(3, 2, 5))
    allowed = 4 * torch.finfo(torch.float64).eps * 20 * (b.abs().max() * a.abs().max()).item()
    found = delta.dense_rows(0, 3).reshape(3, 4, 5)
    torch.testing.assert_close(found, expected, rtol=0, atol=allowed)
    again = encode(adapter)
    assert again.tensors[f"{E}.lora_a"].shape == (3, 2, 5)
    assert torch.equal(
        again.tensors[f"{E}.lora_a"].read(), files.tensors[f"{E}.lora_a"].read().reshape(3, 2, 5)
    )


def test_experts_are_padded_and_scaled_like_all_others() -> None:
    shapes = {**lora(Q, rank=3), f"{E}.lora_a": (3, 2, 5), f"{E}.lora_b": (3, 4, 2)}
    adapter = decode(bundle(shapes, parameters(rank=3)))
    stronger = adapter.updates[f"{E}.weight"].delta.scaled(2)
    assert isinstance(stronger, Stacked)
    updates = {**adapter.updates, f"{E}.weight": Update(stronger)}
    files = encode(replace(adapter, updates=updates))
    assert loadable(files)["scale"] == 1
    assert files.tensors[f"{E}.lora_a"].shape == (3, 3, 5)
    again = decode(files).updates[f"{E}.weight"].delta
    assert isinstance(again, Stacked)
    # Each number of `lora_b`, times 40, is rounded once to float32.
    folded = (stronger.up.read().double() * 40).float()
    assert torch.equal(again.up.read()[..., :2], folded)
    assert not again.up.read()[..., 2:].any()
    assert not again.down.read()[:, 2:].any()


def test_magnitudes_of_experts_are_refused() -> None:
    shapes = {f"{E}.lora_a": (3, 2, 5), f"{E}.lora_b": (3, 4, 2), f"{E}.m": (3, 4)}
    with pytest.raises(UnsupportedError, match="magnitudes of experts, which mlx-lm does not have"):
        decode(bundle(shapes, fields(fine_tune_type="dora")))


def test_full_training_is_whole_tensors() -> None:
    config = {"fine_tune_type": "full", "num_layers": 2, "lora_parameters": None}
    adapter = decode(bundle({"model.norm.weight": (3,), f"{Q}.weight": (4, 3)}, config))
    assert list(adapter.replaced) == ["model.norm.weight", f"{Q}.weight"]
    assert all(replacement.is_trained for replacement in adapter.replaced.values())
    assert notes(adapter, "problem") == []
    assert_same(adapter, decode(encode(adapter)))


def test_tensors_inside_of_a_wrapper_are_the_bases_own() -> None:
    adapter = decode(bundle({**lora(Q), f"{Q}.linear.weight": (4, 3), "norm.weight": (3,)}, None))
    trained = {target: r.is_trained for target, r in adapter.replaced.items()}
    assert trained == {f"{Q}.weight": False, "norm.weight": True}
    (problem,) = notes(adapter, "problem")
    assert "mlx-lm loads no whole tensors" in problem


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        ({f"{Q}.lora_a": (3, 2)}, FormatError, "has lora_a and no lora_b: half an update"),
        ({f"{Q}.lora_b": (2, 4)}, FormatError, "has lora_b and no lora_a: half an update"),
        ({f"{Q}.lora_a": (2, 3), f"{Q}.lora_b": (4, 2)}, ShapeMismatchError, r"\(in, rank\)"),
        ({**lora(Q), "x.lora_A.weight": (2, 3)}, UnsupportedError, "MLX does not have"),
        ({**lora(Q), f"{Q}.alpha": ()}, UnsupportedError, "MLX does not have"),
    ],
)
def test_what_is_no_whole_update_is_refused(
    shapes: Shapes, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"here: .*{message}"):
        decode(bundle(shapes, fields()))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (fields(fine_tune_type="ia3"), "fine_tune_type is 'ia3', and only lora, dora and full"),
        (fields(lora_parameters=[8]), "lora_parameters must be an object"),
        (parameters(scale="20"), "scale must be a finite number"),
        (parameters(keys="q_proj"), "keys must be a list of names"),
        (parameters(rank=0, alpha=16), "rank must be a positive integer"),
        (parameters(rank=None, alpha=16), "rank must be a finite number"),
    ],
)
def test_config_that_is_not_mlxs_is_refused(config: Any, message: str) -> None:
    with pytest.raises((FormatError, UnsupportedError), match=f"here: .*{message}"):
        decode(bundle(lora(Q), config))


@pytest.mark.parametrize(
    ("config", "shapes", "severity", "message"),
    [
        (None, lora(Q), "refusal", "nothing says its scale.*{'scale': …}"),
        (parameters(rank=3), lora(Q), "problem", "a rank of 3, and tensors have 2"),
        (parameters(keys=["v_proj"]), PAIRS, "problem", "not in keys"),
        (fields(fine_tune_type="dora"), lora(Q), "refusal", "no magnitudes are stored"),
        (fields(), {**lora(Q), f"{Q}.m": (4,)}, "problem", "so this is a DoRA"),
        (parameters(alpha=16), lora(Q), "info", "an alpha of 16, which mlx-lm ignores"),
    ],
)
def test_what_mlx_would_do_otherwise_is_said(
    config: Any, shapes: Shapes, severity: str, message: str
) -> None:
    adapter = decode(bundle(shapes, config))
    (found,) = notes(adapter, severity)
    assert re.search(message, found)


def older(alpha: float) -> dict[str, Any]:
    return {"lora_layers": 4, "lora_parameters": {"rank": 8, "alpha": alpha, "scale": 10.0}}


def test_scale_and_alpha_of_older_versions_are_not_guessed() -> None:
    shapes = lora(Q, rank=8)
    adapter = decode(bundle(shapes, older(16)))
    (refusal,) = notes(adapter, "refusal")
    assert "dialect_options={'scale': '20'} or dialect_options={'scale': '10'}" in refusal
    with pytest.raises(UnsupportedError, match=r"{'scale': '20'}"):
        adapter.check_usable()
    assert notes(decode(bundle(shapes, older(8))), "refusal") == []


@pytest.mark.parametrize("config", [None, older(16), fields()])
def test_given_scale_counts_more_than_what_the_files_say(config: Any) -> None:
    adapter = decode(bundle(lora(Q, rank=8), config), {"scale": "0.5"})
    (update,) = adapter.updates.values()
    scaling = present(update.delta.scaling)
    assert (scaling.value, scaling.origin) == (0.5, "option")
    adapter.check_usable()


# Writing


def loadable(files: Bundle) -> dict[str, Any]:
    """Check what mlx-lm's loader requires of a file and its config; return `lora_parameters`."""
    config = present(files.config)
    found: dict[str, Any] = config["lora_parameters"]
    assert {"rank", "scale", "dropout"} <= found.keys()
    assert "alpha" not in found
    assert isinstance(config["num_layers"], int)
    for key, source in files.tensors.items():
        module, _, part = key.rpartition(".")
        assert part in ("lora_a", "lora_b", *(["m"] if config["fine_tune_type"] == "dora" else []))
        axes = {"lora_a": -1, "lora_b": 0} if len(source.shape) == 2 else {"lora_a": 1, "lora_b": 2}
        assert part == "m" or source.shape[axes[part]] == found["rank"]
        keys = found.get("keys")
        inside = module.partition("layers.")[2].partition(".")[2]
        assert keys is None or module in keys or (inside and inside in keys)
    return found


@pytest.mark.parametrize(
    ("shapes", "config"),
    [
        (PAIRS, fields()),
        (PAIRS, parameters(keys=["self_attn.q_proj", "self_attn.v_proj"], scale=10)),
        ({**lora(Q), f"{Q}.m": (4,)}, fields(fine_tune_type="dora", model="ann/base")),
        ({**lora("model.embed_tokens", columns=9)}, parameters(keys=["model.embed_tokens"])),
    ],
)
def test_what_has_not_changed_is_written_as_it_was(shapes: Shapes, config: Any) -> None:
    files = bundle(shapes, config)
    written = encode(decode(files))
    assert written.config == config
    assert list(written.tensors) == list(files.tensors)
    for key, tensor in tensors(files).items():
        assert torch.equal(written.tensors[key].read(), tensor)


def test_config_of_an_older_version_becomes_one_that_loads() -> None:
    adapter = decode(bundle(lora(Q, rank=8), older(16)), {"scale": "20"})
    config = present(encode(adapter).config)
    assert config["num_layers"] == 4
    assert "lora_layers" not in config
    assert config["lora_parameters"] == {"rank": 8, "scale": 20.0, "dropout": 0.0}


Numbers = st.floats(-8, 8, width=16).filter(lambda number: number != 0)


@given(st.lists(st.tuples(st.integers(1, 4), Numbers), min_size=1, max_size=4))
def test_updates_of_any_ranks_and_scales_become_one_rank_and_one_scale(
    modules: list[tuple[int, float]],
) -> None:
    """One scale is kept; several are folded into `lora_b`, each number rounded once."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (rank, _) in enumerate(modules):
        shapes |= peft_lora(f"model.layers.{number}.q", rank=rank)
    alphas = {f"layers.{n}.q": alpha * rank for n, (rank, alpha) in enumerate(modules)}
    ranks = {f"layers.{n}.q": rank for n, (rank, _) in enumerate(modules)}
    config = peft_config(rank_pattern=ranks, alpha_pattern=alphas)
    adapter = decode(bundle(shapes, config))
    files = encode(adapter, "mlx")
    found = loadable(files)
    values = {alpha for _, alpha in modules}
    assert found["rank"] == max(rank for rank, _ in modules)
    assert found["scale"] == (values.pop() if len(values) == 1 else 1)
    again = decode(files)
    for (target, update), (rank, alpha) in zip(adapter.updates.items(), modules, strict=True):
        lora = present(update.delta.low_rank)
        twin = present(again.updates[target].delta.low_rank)
        factor = 1 if len(values) == 0 else alpha
        folded = (lora.up.read().double() * factor).float()
        assert torch.equal(twin.up.read()[:, :rank], folded)
        assert torch.equal(twin.down.read()[:rank], lora.down.read())
        assert not twin.up.read()[:, rank:].any()
        assert not twin.down.read()[rank:].any()


@pytest.mark.parametrize(
    ("changed", "layers"), [({}, 2), ({"model.layers.1.x": 2}, -1), ({"model.layers.9.x": 2}, 2)]
)
def test_number_of_layers_is_kept_while_it_is_certain_to_hold_all(
    changed: dict[str, int], layers: int
) -> None:
    adapter = decode(bundle(PAIRS, fields()))
    more = decode(bundle({k: s for m in changed for k, s in lora(m).items()} or PAIRS, fields()))
    grown = replace(adapter, updates={**adapter.updates, **more.updates})
    assert present(encode(grown).config)["num_layers"] == layers


@pytest.mark.parametrize(
    ("keys", "module", "expected"),
    [
        (None, "lm_head", ["self_attn.q_proj", "self_attn.v_proj", "lm_head"]),
        (["x"], "b.0.q", ["self_attn.q_proj", "self_attn.v_proj", "b.0.q"]),
    ],
)
def test_keys_name_what_is_outside_of_the_blocks_in_full(
    keys: Any, module: str, expected: list[str]
) -> None:
    config = parameters() if keys is None else parameters(keys=keys)
    files = encode(decode(bundle({**PAIRS, **lora(module)}, config)))
    assert loadable(files)["keys"] == expected


def peft(shapes: Shapes, **changes: Any) -> Adapter:
    return decode(bundle(shapes, peft_config(**changes)))


P = "base_model.model."


@pytest.mark.parametrize(
    ("adapter", "target", "message"),
    [
        (peft({**peft_lora("q"), f"{P}head.weight": (2, 2)}), "head.weight", "a whole tensor"),
        (
            peft({**peft_lora("q"), f"{P}q.lora_B.bias": (4,)}, lora_bias=True),
            "q.bias",
            "not a module's weight",
        ),
        (
            peft({f"{P}c.lora_A.weight": (2, 3, 3, 3), f"{P}c.lora_B.weight": (4, 2, 1, 1)}),
            "c.weight",
            "no place for a LoRA",
        ),
        (
            peft({f"{P}x.lora_embedding_A": (2, 9), f"{P}x.lora_embedding_B": (4, 2)}),
            "x.weight",
            "is an embedding, which nobody would know by its name",
        ),
    ],
    ids=["whole", "bias", "convolution", "embedding"],
)
def test_what_mlx_has_no_place_for_is_refused_by_name(
    adapter: Adapter, target: str, message: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"^here: {target}: .*{message}"):
        encode(adapter, "mlx")


def test_update_of_a_tied_embedding_is_none_of_the_embedding_alone() -> None:
    """MLX applies it to the head too, PEFT does not: each refuses the other's."""
    alone = {f"{P}wte.lora_embedding_A": (2, 9), f"{P}wte.lora_embedding_B": (4, 2)}
    with pytest.raises(
        UnsupportedError, match=r"here: wte\.weight: .*the embedding alone, and MLX's"
    ):
        encode(peft(alone), "mlx")
    both = decode(bundle({"wte.lora_a": (9, 2), "wte.lora_b": (2, 4)}, fields()))
    with pytest.raises(UnsupportedError, match=r"here: wte\.weight: .*tied to it, and PEFT's"):
        encode(both, "peft")


def test_magnitudes_of_columns_are_refused() -> None:
    adapter = decode(bundle({**lora(Q, rows=3), f"{Q}.m": (3,)}, fields(fine_tune_type="dora")))
    (update,) = adapter.updates.values()
    turned = replace(update, delta=update.delta.transposed())
    with pytest.raises(UnsupportedError, match=f"here: {Q}.weight: .*one for each column"):
        encode(replace(adapter, updates={f"{Q}.weight": turned}))


def test_adapter_of_two_kinds_is_refused() -> None:
    shapes = {**PAIRS, f"{Q}.m": (4,)}
    with pytest.raises(UnsupportedError, match=f"here: {V}.weight: a LoRA beside a DoRA"):
        encode(decode(bundle(shapes, fields(fine_tune_type="dora"))))


def test_peft_to_mlx_and_back_keeps_every_update() -> None:
    shapes = {**peft_lora(Q), **peft_lora(V, rank=3)}
    adapter = peft(shapes, rank_pattern={"v_proj": 3}, alpha_pattern={"v_proj": 6})
    back = decode(encode(decode(encode(adapter, "mlx")), "peft"))
    for target, effect in effects(adapter).items():
        torch.testing.assert_close(effects(back)[target], effect, rtol=0, atol=0)


def test_file_in_float16_stays_float16() -> None:
    files = bundle(lora(Q), fields())
    halves = {k: Held(k, s.read().half(), "F16") for k, s in files.tensors.items()}
    written = encode(decode(replace(files, tensors=halves)))
    assert {source.dtype for source in written.tensors.values()} == {"F16"}


def test_floats_of_8_bits_which_mlx_takes_for_integers_are_stored_in_16() -> None:
    files = bundle(lora(Q), fields())
    eighths = {
        key: Held(key, source.read().to(torch.float8_e4m3fn), "F8_E4M3")
        for key, source in files.tensors.items()
    }
    adapter = decode(replace(files, tensors=eighths))
    written = encode(adapter)
    assert {source.dtype for source in written.tensors.values()} == {"F16"}
    for target, effect in effects(adapter).items():
        torch.testing.assert_close(effects(decode(written))[target], effect, rtol=0, atol=0)


# Files


def test_archive_of_arrays_is_read_and_written_as_safetensors(tmp_path: Path) -> None:
    """`adapters.npz`, as MLX's example saves it, without a config."""
    arrays: Any = {key: source.read().numpy() for key, source in exact(PAIRS, None).tensors.items()}
    (tmp_path / "old").mkdir()
    np.savez(tmp_path / "old" / "adapters.npz", **arrays)
    adapter = loratools.open_adapter(tmp_path / "old", dialect_options={"scale": "2"})
    assert list(adapter.updates) == [f"{Q}.weight", f"{V}.weight"]
    a, b = (arrays[f"{Q}.{part}"] for part in ("lora_a", "lora_b"))
    assert np.array_equal(effects(adapter)[f"{Q}.weight"].numpy(), 2 * (a @ b).T)
    write_adapter(adapter, tmp_path / "new", inputs=[])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "adapter_config.json",
        "adapters.safetensors",
    ]
    again = loratools.open_adapter(tmp_path / "new")
    again.check_usable()
    assert_same(adapter, again)


def test_safetensors_are_preferred_to_an_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "adapters.npz", x=np.ones(1))
    files = exact(PAIRS, None)
    save_file({k: s.read() for k, s in files.tensors.items()}, tmp_path / "adapters.safetensors")
    adapter = loratools.open_adapter(tmp_path)
    assert (len(adapter.updates), adapter.beside) == (2, ())
